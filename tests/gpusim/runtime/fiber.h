// SPDX-License-Identifier: BSD-3-Clause
// A stack of its own to run a CUDA thread on, and the switch to and from it.
#pragma once

#include <cstddef>

namespace gpusim {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Prepares the next resume() to call entry(), which never returns: it leaves by finish(). Whatever ran
  // before on this stack is forgotten.
  void start(void (*entry)());
  // From the scheduler: runs the fiber until it suspends or finishes.
  void resume();
  // From the fiber: back to the scheduler.
  void suspend() { switch_to_scheduler(false); }
  [[noreturn]] void finish();
  // First thing in entry().
  static void entered();

 private:
  void switch_to_scheduler(bool dying);

  char* stack_;
  void* stack_pointer_ = nullptr;
  void* fake_stack_ = nullptr;  // the address sanitizer's
  void* tsan_ = nullptr;
};

}  // namespace gpusim
