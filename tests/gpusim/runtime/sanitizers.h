// SPDX-License-Identifier: BSD-3-Clause
// What the sanitizers offer to programs with fibers. The runtime itself is compiled without any: the symbols
// are there when the program under test is linked with that sanitizer, else null.
#pragma once

#include <cstddef>

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, std::size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, std::size_t* size);
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* address, std::size_t size);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* address, std::size_t size);
[[gnu::weak]] void* __asan_get_report_address();
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);
[[gnu::weak]] void AnnotateIgnoreWritesBegin(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreWritesEnd(const char* file, int line);
[[gnu::weak]] int __tsan_get_report_mop(void* report, unsigned long index, int* tid, void** address,
                                        int* size, int* write, int* atomic, void** trace,
                                        unsigned long trace_size);
}

namespace gpusim {

inline bool under_tsan() {
  return __tsan_create_fiber != nullptr;
}

// A happens-before edge: everything before release(token) in one fiber is before acquire(token) in another.
inline void release(char* token) {
  if (__tsan_release != nullptr) __tsan_release(token);
}
inline void acquire(char* token) {
  if (__tsan_acquire != nullptr) __tsan_acquire(token);
}
inline void forbid(const void* address, std::size_t size) {
  if (__asan_poison_memory_region != nullptr) __asan_poison_memory_region(address, size);
}
inline void allow(const void* address, std::size_t size) {
  if (__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(address, size);
}

// Around what the runtime allocates in a CUDA thread and another one frees: the thread sanitizer sees
// allocations even of code that it did not compile.
class OwnMemory {
 public:
  OwnMemory() {
    if (AnnotateIgnoreWritesBegin != nullptr) AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~OwnMemory() {
    if (AnnotateIgnoreWritesEnd != nullptr) AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  }
  OwnMemory(const OwnMemory&) = delete;
  OwnMemory& operator=(const OwnMemory&) = delete;
};

}  // namespace gpusim
