// SPDX-License-Identifier: BSD-3-Clause
// gpusim runs CUDA C++ kernels on the CPU, one fiber per CUDA thread, to find their bugs. It is test code: it
// says nothing about speed, occupancy, bank conflicts or weak memory order.
//
// A kernel source (.cu, .cuh) is compiled unmodified by g++, with tests/gpusim/runtime first in the include
// path so that its `#include <cuda_runtime.h>` finds this runtime. It may use:
//
// - cudaLaunchKernelEx(&config, kernel, args...) (not <<<...>>>, which g++ cannot parse), cudaMemsetAsync and
//   cudaMemcpyAsync. They run at once, in order, and are accepted on gpusim::stream() only.
// - __global__ __device__ __host__ __forceinline__ __launch_bounds__ __restrict__ __align__; threadIdx,
//   blockIdx, blockDim, gridDim, warpSize.
// - SMET_SHARED(float, tile, [8][32]) and SMET_DYNAMIC_SHARED(float, tile) of kernels/cuda/shared.cuh. A bare
//   __shared__ does not compile.
// - __syncthreads, __syncthreads_count, _and, _or; __syncwarp.
// - __shfl_sync, _up, _down, _xor of values up to 8 bytes; __ballot_sync, __any_sync, __all_sync,
//   __match_any_sync; __reduce_add_sync, _min, _max of int and unsigned; __reduce_and_sync, _or, _xor.
// - atomicAdd, Sub, Min, Max, Exch, CAS, And, Or, Xor on CUDA's types.
// - __ldg, __ldcg, __ldcs, __stcg, __stcs; float2 to float4, int2 to int4, uint2 to uint4 and make_*.
// - CUDA's bit functions and casts, arithmetic with its rounding written out, min, max, <cmath>
//   (intrinsics.h lists them); bf16 and half from NVIDIA's own cuda_bf16.h and cuda_fp16.h.
//
// What is absent does not compile, on purpose: approximate math (__expf, __fdividef), __activemask,
// __threadfence and grid sync (no kernel may wait for another block), cub, inline PTX, wmma, cp.async.
//
// A test runs a launcher under every schedule:
//   gpusim::for_each_schedule([&] { ASSERT_EQ(cuda::expand(gpusim::stream(), args), Status::ok); ... });
// or launches a kernel itself:
//   gpusim::launch({.grid = {3}, .block = {64}, .shared_bytes = 256}, kernel<float>, out, n);
//
// What it finds is thrown as gpusim::Error, which names block, thread and line: a lane outside its own mask,
// a shuffle from a lane that takes no part, a barrier met after some threads left or at two different lines,
// deadlock, too many threads or bytes, a launch on another stream. Shared memory is NaN before every block.
// Memory errors are left to the address sanitizer (shared arrays have exact bounds; give global ones exactly
// sized heap buffers), misaligned vector accesses to the undefined-behaviour sanitizer, and races to the
// thread sanitizer: every CUDA thread is a thread to it and only barriers create order, so that no schedule
// can hide a race.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace gpusim {

// In which order threads that could run do run. Lock step passes over the block and runs each thread up to
// its next collective; draining runs one warp for as long as it can, so that warps drift as far apart as
// barriers let them.
enum class Order : std::uint8_t { forward, reverse, random };
struct Schedule {
  Order order = Order::forward;
  bool drain = false;
  std::uint64_t seed = 1;  // of Order::random, which also yields after every atomic
};
std::string name(const Schedule& schedule);

struct Options {
  Schedule schedule;
  // Under the thread sanitizer: blocks less than this far apart in launch order are unordered. 1 looks for
  // races inside a block only; the runtime lowers it when blocks are so large that it would need too many
  // fibers.
  int unordered_blocks = 1;
};

// Six schedules; under the thread sanitizer, where no schedule can hide a race, two, with unordered blocks.
std::vector<Options> all_schedules();

// The options of the launches below it in scope; scopes nest.
class With {
 public:
  explicit With(const Options& options);
  ~With();
  With(const With&) = delete;
  With& operator=(const With&) = delete;

 private:
  Options outer_;
};
void for_each_schedule(const std::function<void()>& body);

// Between construction and stop(), launches, fills and copies run as always and are also kept, with the
// arguments that they had: what capturing a stream into a CUDA graph keeps. replay() does them again. As
// there, the memory that they use must still be what it was.
class Recording {
 public:
  Recording();
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  void stop();
  void replay() const;
  std::size_t size() const { return work_.size(); }

 private:
  friend void keep_for_replay(std::function<void()> work);
  std::vector<std::function<void()>> work_;
};
bool recording();
void keep_for_replay(std::function<void()> work);

// The one stream on which work is accepted. Not null, so that a launcher that forgets its stream is found.
cudaStream_t stream();

// What a launch did wrong.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Shape {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
};

// Counts since the program started; a test may look at differences.
struct Counts {
  std::uint64_t launches, blocks, threads, barriers, collectives;
};
const Counts& counts();

void launch_erased(const Shape& shape, const void* kernel, void (*call)(void*), void* context);

template <typename... Parameters, typename... Arguments>
void launch(const Shape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  } call{kernel, std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)};
  if (recording()) {
    keep_for_replay([shape, call] {
      std::apply([&](const auto&... same) { launch(shape, call.kernel, same...); }, call.arguments);
    });
  }
  launch_erased(
      shape, reinterpret_cast<const void*>(kernel),
      [](void* context) {
        auto* c = static_cast<Call*>(context);
        std::apply(c->kernel, c->arguments);
      },
      &call);
}

}  // namespace gpusim
