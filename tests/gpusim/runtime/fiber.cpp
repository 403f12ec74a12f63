// SPDX-License-Identifier: BSD-3-Clause
#include "fiber.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#include "sanitizers.h"

#if !defined(__x86_64__)
#error "gpusim: the fiber switch is written for x86-64"
#endif

// Saves the callee-saved registers on the running stack, and continues where the other one stopped.
extern "C" void gpusim_switch(void** save, void* load);
__asm__(R"(
.text
.type gpusim_switch, @function
gpusim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gpusim_switch, .-gpusim_switch
)");

namespace gpusim {
namespace {

constexpr std::size_t kStackBytes = 128U << 10;
constexpr std::size_t kGuardBytes = 4096;
constexpr int kSavedRegisters = 6;

// The thread that launches. One launch at a time.
struct Scheduler {
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;
  const void* stack = nullptr;
  std::size_t stack_bytes = 0;
  void* tsan = nullptr;
} scheduler;

}  // namespace

Fiber::Fiber() {
  // The system call itself: the thread sanitizer's mmap would touch the shadow of all of the stack.
  const long pages = syscall(SYS_mmap, nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == -1) throw std::bad_alloc();
  auto* guard = reinterpret_cast<char*>(pages);
  mprotect(guard, kGuardBytes, PROT_NONE);
  stack_ = guard + kGuardBytes;
  if (under_tsan()) tsan_ = __tsan_create_fiber(0);
}

Fiber::~Fiber() {
  if (under_tsan()) {
    // What a fiber that never finished has done is over now, for the thread sanitizer too.
    void* scheduler_fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_, 1);
    release(stack_);
    __tsan_switch_to_fiber(scheduler_fiber, 1);
    acquire(stack_);
    __tsan_destroy_fiber(tsan_);
  }
  allow(stack_, kStackBytes);
  munmap(stack_ - kGuardBytes, kStackBytes + kGuardBytes);
}

void Fiber::start(void (*entry)()) {
  allow(stack_, kStackBytes);
  fake_stack_ = nullptr;
  // As if entry() had been called from an address of 0, with the stack aligned as the ABI wants it.
  auto* top = reinterpret_cast<void**>(stack_ + kStackBytes) - 2;
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  stack_pointer_ = top;
}

void Fiber::resume() {
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(&scheduler.fake_stack, stack_, kStackBytes);
  }
  if (under_tsan()) {
    scheduler.tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_, 1);  // 1: the switch itself orders nothing
  }
  gpusim_switch(&scheduler.stack_pointer, stack_pointer_);
  if (__sanitizer_finish_switch_fiber != nullptr) {
    __sanitizer_finish_switch_fiber(scheduler.fake_stack, nullptr, nullptr);
  }
}

void Fiber::switch_to_scheduler(bool dying) {
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(dying ? nullptr : &fake_stack_, scheduler.stack, scheduler.stack_bytes);
  }
  if (under_tsan()) __tsan_switch_to_fiber(scheduler.tsan, 1);
  gpusim_switch(&stack_pointer_, scheduler.stack_pointer);
  if (__sanitizer_finish_switch_fiber != nullptr) {
    __sanitizer_finish_switch_fiber(fake_stack_, &scheduler.stack, &scheduler.stack_bytes);
  }
}

void Fiber::finish() {
  switch_to_scheduler(true);
  std::abort();
}

void Fiber::entered() {
  if (__sanitizer_finish_switch_fiber != nullptr) {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.stack_bytes);
  }
}

}  // namespace gpusim
