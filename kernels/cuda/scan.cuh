// SPDX-License-Identifier: BSD-3-Clause
// Prefix sums of a warp and of a block. CUB has them too, but no host compiler can run CUB.
#pragma once

#include "kernels/cuda/device.cuh"

namespace smet::kernels::cuda {

// The sum of `x` over the lower lanes; *total = over all lanes.
template <typename T>
__device__ __forceinline__ T warp_exclusive_sum(T x, T* total) {
  T inclusive = x;
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const T lower = __shfl_up_sync(kFullMask, inclusive, static_cast<unsigned>(offset));
    if (lane_index() >= offset) inclusive += lower;
  }
  *total = __shfl_sync(kFullMask, inclusive, kWarp - 1);
  return inclusive - x;
}

template <typename T>
__device__ __forceinline__ T warp_sum(T x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullMask, x, offset);
  return x;
}

// The sum of `x` over the lower threads of the block; *total = over all. `warps` is shared memory, one entry
// per warp. Every thread of the block must call, and may call again at once.
template <int kThreads, typename T>
__device__ __forceinline__ T block_exclusive_sum(T x, T* warps, T* total) {
  T warp_total;
  const T within = warp_exclusive_sum(x, &warp_total);
  if (lane_index() == 0) warps[warp_of_block()] = warp_total;
  __syncthreads();
  T before = 0;
  T sum = 0;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) {
    if (warp < warp_of_block()) before += warps[warp];
    sum += warps[warp];
  }
  __syncthreads();
  *total = sum;
  return before + within;
}

}  // namespace smet::kernels::cuda
