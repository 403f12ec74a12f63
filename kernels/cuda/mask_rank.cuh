// SPDX-License-Identifier: BSD-3-Clause
// mask_rank: counts per segment, prefix sums within blocks of 256 segments, a prefix sum over the blocks, and
// the two put together. mask_hash: a sum over all words, per block first.
#pragma once

#include "kernels/cuda/segment.cuh"
#include "kernels/philox.h"

namespace smet::kernels::cuda {

inline constexpr int kScanThreads = 256;
inline constexpr int kScanWarps = kScanThreads / kWarp;

// rank[i] = active weights of the block's segments before segment i; totals[block] = of all of them. A warp
// takes 32 segments, one after the other, so that it reads whole segments.
static __global__ void __launch_bounds__(kScanThreads)
    count_segments_kernel(const Tile layer, const std::uint32_t* mask, std::int64_t segments,
                          std::int32_t* rank, std::int64_t* totals) {
  SMET_SHARED(std::int32_t, warps, [kScanWarps]);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kScanThreads + warp_of_block() * kWarp;
  std::int32_t count = 0;  // of segment first + lane
  for (int i = 0; i < kWarp && first + i < segments; ++i) {
    const Place place = place_of(layer, first + i);
    const std::int32_t sum = warp_sum(__popc(segment_word(mask, layer.col_end, place)));
    if (i == lane_index()) count = sum;
  }
  std::int32_t total;
  const std::int32_t before = block_exclusive_sum<kScanThreads>(count, warps, &total);
  if (first + lane_index() < segments) rank[first + lane_index()] = before;
  if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

// One block: totals[i] becomes the sum of the totals before i, *all = the sum of all.
static __global__ void __launch_bounds__(kScanThreads)
    scan_totals_kernel(std::int64_t* totals, std::int64_t count, std::int64_t* all) {
  SMET_SHARED(std::int64_t, warps, [kScanWarps]);
  std::int64_t carry = 0;
  for (std::int64_t base = 0; base < count; base += kScanThreads) {
    const std::int64_t i = base + threadIdx.x;
    std::int64_t total;
    const std::int64_t before = block_exclusive_sum<kScanThreads>(i < count ? totals[i] : 0, warps, &total);
    if (i < count) totals[i] = carry + before;
    carry += total;
  }
  if (threadIdx.x == 0) *all = carry;
}

static __global__ void __launch_bounds__(kScanThreads)
    add_totals_kernel(std::int32_t* rank, std::int64_t segments, const std::int64_t* totals) {
  const std::int64_t i = global_thread();
  if (i < segments) rank[i] = static_cast<std::int32_t>(rank[i] + totals[blockIdx.x]);
}

static __global__ void __launch_bounds__(kScanThreads)
    hash_words_kernel(const std::uint32_t* mask, std::int64_t words, std::uint64_t* sums) {
  SMET_SHARED(std::uint64_t, warps, [kScanWarps]);
  std::uint64_t sum = 0;
  for (std::int64_t word = global_thread(); word < words; word += all_threads()) {
    sum += mix64(mix64(static_cast<std::uint64_t>(word)) ^ mask[word]);
  }
  std::uint64_t total;
  block_exclusive_sum<kScanThreads>(sum, warps, &total);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

static __global__ void __launch_bounds__(kScanThreads)
    finish_hash_kernel(const std::uint64_t* sums, int count, std::int64_t rows, std::int64_t cols,
                       std::uint64_t* hash) {
  SMET_SHARED(std::uint64_t, warps, [kScanWarps]);
  std::uint64_t sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kScanThreads) sum += sums[i];
  std::uint64_t total;
  block_exclusive_sum<kScanThreads>(sum, warps, &total);
  if (threadIdx.x != 0) return;
  *hash = mix64(mix64(total + static_cast<std::uint64_t>(rows)) + static_cast<std::uint64_t>(cols));
}

// One block, over the rows' last words.
static __global__ void __launch_bounds__(kScanThreads)
    pad_bits_kernel(const std::uint32_t* mask, std::int64_t rows, std::int64_t cols, std::int32_t* found) {
  const std::int64_t words = words_per_row(cols);
  const int used = static_cast<int>(cols % kWordColumns);
  int bad = 0;
  if (used != 0) {
    for (std::int64_t row = threadIdx.x; row < rows; row += kScanThreads) {
      bad |= static_cast<int>(mask[(row + 1) * words - 1] >> used != 0);
    }
  }
  bad = __syncthreads_or(bad);
  if (threadIdx.x == 0) *found = bad != 0 ? 1 : 0;
}

}  // namespace smet::kernels::cuda
