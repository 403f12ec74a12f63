// SPDX-License-Identifier: BSD-3-Clause
// What the kernels need of CUDA C++, and how they are launched. They are compiled by nvcc, and, unmodified,
// by g++ against tests/gpusim, which runs every CUDA thread as a fiber. That is why they keep to plain CUDA
// C++: full warp masks, no early return before a barrier of the block, shared arrays through SMET_SHARED, no
// <<<>>>, no inline PTX, no cooperative groups. Both compilers are told not to fuse a multiplication with an
// addition, so that every rounding is the one that the contracts write down.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cuda/shared.cuh"
#include "kernels/types.h"

namespace smet::kernels::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullMask = 0xFFFFFFFFU;

// kernel(args...) on `blocks` blocks of `threads` threads. No blocks: nothing is launched, which CUDA would
// call an error.
template <typename... Parameters, typename... Args>
Status launch(Stream stream, unsigned blocks, int threads, void (*kernel)(Parameters...),
              const Args&... args) {
  if (blocks == 0) return Status::ok;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...);
  return error == cudaSuccess ? Status::ok : Status::launch_failed;
}

// Several launches, one after the other; none after one that failed.
class Launches {
 public:
  explicit Launches(Stream stream) : stream_(stream) {}

  template <typename Kernel, typename... Args>
  void operator()(unsigned blocks, int threads, Kernel kernel, const Args&... args) {
    if (status_ == Status::ok) status_ = launch(stream_, blocks, threads, kernel, args...);
  }
  Status status() const { return status_; }

 private:
  Stream stream_;
  Status status_ = Status::ok;
};

__device__ __forceinline__ int lane_index() {
  return static_cast<int>(threadIdx.x) % kWarp;
}
__device__ __forceinline__ int warp_of_block() {
  return static_cast<int>(threadIdx.x) / kWarp;
}
__device__ __forceinline__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ std::int64_t all_threads() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

// Blocks of `per_block` items each. A grid has at most 2^31 - 1 blocks: more than any layer needs (types.h
// bounds its active weights), so callers do not check.
inline unsigned blocks_for(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

// A grid for a loop that strides over `items`, no larger than fills any GPU. Results never depend on it.
inline unsigned striding_blocks(std::int64_t items, std::int64_t per_block) {
  constexpr std::int64_t kMost = 2048;
  return blocks_for(std::min(items, kMost * per_block), per_block);
}

// N elements that are read or written at once: 16 bytes are one instruction of the widest kind. The address
// must be a multiple of alignof(Vector).
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vector {
  T at[N];
};

// Writes a vector to an address that is a multiple of alignof(V). 16 bytes are one instruction, which an
// assignment need not be: for sm_80 and sm_90 nvcc takes it apart. The L2 cache is where the next reader
// looks.
template <typename V>
__device__ __forceinline__ void store_whole(void* to, const V& x) {
  if constexpr (sizeof(V) == sizeof(uint4)) {
    uint4 words;
    memcpy(&words, &x, sizeof words);
    __stcg(static_cast<uint4*>(to), words);
  } else {
    *static_cast<V*>(to) = x;
  }
}

template <typename V>
__host__ __device__ __forceinline__ bool aligned_for(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % alignof(V) == 0;
}

}  // namespace smet::kernels::cuda
