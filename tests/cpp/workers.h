// SPDX-License-Identifier: BSD-3-Clause
// Executors of the tests, on threads of their own.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/types.h"

namespace smet::test {

using kernels::Executor;

// kThreads threads that live as long as the test program: starting them for every call would take longer than
// the kernels.
template <int kThreads>
class Workers {
 public:
  static Workers& instance() {
    static Workers workers;
    return workers;
  }

  // Thread t takes chunks t, t + count, ...; the caller is thread 0.
  void run(std::int64_t chunks, Executor::Body body, void* context) {
    {
      const std::lock_guard lock(mutex_);
      work_ = {chunks, body, context};
      busy_ = kThreads - 1;
      ++round_;
    }
    start_.notify_all();
    take(0, work_);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return busy_ == 0; });
  }

 private:
  struct Work {
    std::int64_t chunks;
    Executor::Body body;
    void* context;
  };

  Workers() {
    for (int t = 1; t < kThreads; ++t) threads_.emplace_back([this, t] { serve(t); });
  }
  ~Workers() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    start_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  static void take(std::int64_t first, const Work& work) {
    for (std::int64_t chunk = first; chunk < work.chunks; chunk += kThreads) work.body(work.context, chunk);
  }
  void serve(int thread) {
    for (std::int64_t seen = 0;;) {
      Work work;
      {
        std::unique_lock lock(mutex_);
        start_.wait(lock, [&] { return stop_ || round_ != seen; });
        if (stop_) return;
        seen = round_;
        work = work_;
      }
      take(thread, work);
      const std::lock_guard lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable start_, done_;
  Work work_{};
  std::int64_t round_ = 0;
  int busy_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

template <int kThreads>
Executor executor_of() {
  return {[](std::int64_t chunks, Executor::Body body, void* context) {
            Workers<kThreads>::instance().run(chunks, body, context);
          },
          kThreads};
}

}  // namespace smet::test
