// SPDX-License-Identifier: BSD-3-Clause
// Three small kernels in the manner of the real ones, and the bugs that such kernels have. Each kernel is
// correct with Bug::none and wrong in one place with each other value.
#pragma once

#include <cstdint>

#include "kernels/cuda/shared.cuh"

namespace seeded {

enum class Bug : std::uint8_t {
  none,
  // unpack
  tail_overrun,
  unaligned_store,
  wrong_alignment_for_one_dtype,
  off_by_one_rank,
  int32_overflow_of_an_index,
  // pack
  missing_barrier_before_read,
  missing_barrier_after_read,
  shuffle_as_barrier,
  shared_overflow,
  dynamic_shared_overflow,
  missing_accumulate,
  stale_shared_tile,
  // sum
  early_return,
  divergent_barrier,
  unequal_barriers,
  missing_block_barrier,
  wrong_mask,
  mask_without_caller,
  shuffle_from_absent_lane,
  inter_block_race,
};

inline constexpr unsigned kFull = 0xFFFFFFFFU;
inline constexpr int kColumnsPerLane = 4;
inline constexpr int kColumnsPerRound = 32 * kColumnsPerLane;

template <typename T>
struct alignas(4 * sizeof(T)) Quad {
  T at[4];
};

__device__ inline int lane() {
  return static_cast<int>(threadIdx.x % 32);
}

// Sum over lanes up to and including this one.
__device__ inline int inclusive_scan(int x) {
  for (unsigned delta = 1; delta < 32; delta *= 2) {
    const int before = __shfl_up_sync(kFull, x, delta);
    if (lane() >= static_cast<int>(delta)) x += before;
  }
  return x;
}

// The four mask bits of a lane that begins at `column`.
__device__ inline unsigned four_bits(const unsigned* mask, int cols, int column) {
  const int words = (cols + 31) / 32;
  if (column >= cols) return 0;
  return mask[static_cast<int>(blockIdx.x) * words + column / 32] >> (column % 32) & 0xFU;
}

template <typename T, Bug bug>
__device__ inline bool aligned(const T* address) {
  const auto number = reinterpret_cast<std::uintptr_t>(address);
  if constexpr (bug == Bug::unaligned_store) return true;
  if constexpr (bug == Bug::wrong_alignment_for_one_dtype) return number % alignof(Quad<std::uint16_t>) == 0;
  return number % alignof(Quad<T>) == 0;
}

// Packed values to dense rows, a warp and a block per row.
template <typename T, Bug bug>
__global__ void unpack(const T* values, const unsigned* mask, const int* rank, int cols, std::int64_t stride,
                       T* dense) {
  const int row = static_cast<int>(blockIdx.x);
  T* to = dense + row * stride;
  if constexpr (bug == Bug::int32_overflow_of_an_index) to = dense + row * static_cast<int>(stride);
  int next = rank[row];
  for (int base = 0; base < cols; base += kColumnsPerRound) {
    const int column = base + lane() * kColumnsPerLane;
    const unsigned bits = four_bits(mask, cols, column);
    const int through = inclusive_scan(__popc(bits));
    int index = next + through - (bug == Bug::off_by_one_rank ? 0 : __popc(bits));
    Quad<T> out;
    for (int i = 0; i < 4; ++i) out.at[i] = (bits >> i & 1U) != 0 ? values[index++] : T{0};
    const bool whole = bug == Bug::tail_overrun ? column < cols : column + 4 <= cols;
    if (whole && aligned<T, bug>(to + column)) {
      *reinterpret_cast<Quad<T>*>(to + column) = out;
    } else {
      for (int i = 0; i < 4; ++i) {
        if (column + i < cols) to[column + i] = out.at[i];
      }
    }
    next += __shfl_sync(kFull, through, 31);
  }
}

// Dense rows to packed values, scaled by one factor per lane's column group, through a stage in shared
// memory.
template <Bug bug>
__global__ void pack(const float* dense, const unsigned* mask, const int* rank, const float* scale, int cols,
                     bool accumulate, float* values) {
  SMET_SHARED(float, stage, [bug == Bug::shared_overflow ? kColumnsPerRound - 1 : kColumnsPerRound]);
  SMET_DYNAMIC_SHARED(float, scales);
  // As if shared memory outlived the block that filled it.
  if (bug != Bug::stale_shared_tile || blockIdx.x == 0) scales[lane()] = scale[lane()];
  int next = rank[blockIdx.x];
  for (int base = 0; base < cols; base += kColumnsPerRound) {
    const int column = base + lane() * kColumnsPerLane;
    const unsigned bits = four_bits(mask, cols, column);
    const int through = inclusive_scan(__popc(bits));
    const int total = __shfl_sync(kFull, through, 31);
    int index = through - __popc(bits);
    if constexpr (bug != Bug::missing_barrier_after_read) __syncwarp();  // the last round has been read
    for (int i = 0; i < 4; ++i) {
      if ((bits >> i & 1U) != 0)
        stage[index++] = dense[blockIdx.x * static_cast<unsigned>(cols) + column + i];
    }
    if constexpr (bug == Bug::shuffle_as_barrier) {
      __shfl_sync(kFull, total, 0);  // all lanes meet, but memory is not ordered
    } else if constexpr (bug != Bug::missing_barrier_before_read) {
      __syncwarp();
    }
    for (int i = lane(); i < total; i += 32) {
      const float x = stage[i] * scales[i % 32];
      values[next + i] = accumulate && bug != Bug::missing_accumulate ? values[next + i] + x : x;
    }
    next += total;
  }
}

// The warp's sum, in lane 0.
template <Bug bug>
__device__ int warp_sum(int x) {
  if constexpr (bug == Bug::wrong_mask) {
    if (lane() < 16) x += __shfl_down_sync(kFull, x, 16);  // half of the mask never comes
  } else if constexpr (bug == Bug::mask_without_caller) {
    x += __shfl_xor_sync(0x0000FFFFU, x, 8);
  } else if constexpr (bug == Bug::shuffle_from_absent_lane) {
    if (lane() < 16) x += __shfl_down_sync(0x0000FFFFU, x, 16);
  } else {
    x += __shfl_down_sync(kFull, x, 16);
  }
  for (unsigned delta = 8; delta > 0; delta /= 2) x += __shfl_down_sync(kFull, x, delta);
  return x;
}

template <Bug bug>
__device__ void block_barrier(unsigned warp) {
  if constexpr (bug == Bug::missing_block_barrier) return;
  if constexpr (bug == Bug::divergent_barrier) {
    if (warp == 0) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if constexpr (bug == Bug::unequal_barriers) {
    for (unsigned i = 0; i <= warp; ++i) __syncthreads();
  } else {
    __syncthreads();
  }
}

// *total += the sum of x.
template <Bug bug>
__global__ void sum(const int* x, int n, int* total) {
  SMET_SHARED(int, partial, [32]);
  const auto i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if constexpr (bug == Bug::early_return) {
    if (i >= n) return;
  }
  const unsigned warp = threadIdx.x / 32;
  const int mine = warp_sum<bug>(i < n ? x[i] : 0);
  if (lane() == 0) partial[warp] = mine;
  block_barrier<bug>(warp);
  if (threadIdx.x != 0) return;
  int block_total = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) block_total += partial[w];
  if constexpr (bug == Bug::inter_block_race) {
    *total += block_total;
  } else {
    atomicAdd(total, block_total);
  }
}

}  // namespace seeded
