// SPDX-License-Identifier: BSD-3-Clause
// One warp per segment of 1,024 columns: lane l holds mask word l, and a prefix sum of the words' population
// counts says where each word's weights begin.
#pragma once

#include "kernels/cuda/scan.cuh"
#include "kernels/expand.h"

namespace smet::kernels::cuda {

inline constexpr int kSegmentWarps = 4;  // per block
inline constexpr int kSegmentThreads = kSegmentWarps * kWarp;
static_assert(kSegmentWords == kWarp, "a lane holds one word of the segment");

inline std::int64_t segments_of(const Tile& tile) {
  return (tile.row_end - tile.row_begin) * segments_per_row(tile.col_end - tile.col_begin);
}

// Where segment number `index` of a tile lies, counted row by row.
struct Place {
  std::int64_t row, col;  // of the layer
  int width;              // columns of the segment: 1,024 but at the ragged edge
};

__device__ __forceinline__ Place place_of(const Tile& tile, std::int64_t index) {
  const auto per_row = static_cast<std::uint32_t>(segments_per_row(tile.col_end - tile.col_begin));
  // 32-bit division: a layer has fewer than 2^32 segments, whose mask alone would be half a terabyte.
  const std::uint32_t row = static_cast<std::uint32_t>(index) / per_row;
  const std::uint32_t segment = static_cast<std::uint32_t>(index) % per_row;
  const std::int64_t col = tile.col_begin + segment * kSegmentColumns;
  const std::int64_t left = tile.col_end - col;
  return {tile.row_begin + row, col, static_cast<int>(left < kSegmentColumns ? left : kSegmentColumns)};
}

__device__ __forceinline__ std::int64_t rank_index(std::int64_t cols, const Place& place) {
  return place.row * segments_per_row(cols) + place.col / kSegmentColumns;
}

// This lane's word of the segment; 0 beyond its last column.
__device__ __forceinline__ std::uint32_t segment_word(const std::uint32_t* mask, std::int64_t cols,
                                                      const Place& place) {
  if (lane_index() * kWordColumns >= place.width) return 0;
  return mask[place.row * words_per_row(cols) + place.col / kWordColumns + lane_index()];
}

// A warp's view of one segment. Every member function but `first` is to be called by the whole warp.
struct Segment {
  std::uint32_t word;  // this lane's
  int before;          // active columns in the words of lower lanes
  int count;           // active columns of the segment

  __device__ static Segment load(const std::uint32_t* mask, std::int64_t cols, const Place& place) {
    Segment segment;
    segment.word = segment_word(mask, cols, place);
    segment.before = warp_exclusive_sum(__popc(segment.word), &segment.count);
    return segment;
  }

  // Columns [column, column + N) of the segment, within one word: their mask bits, and the number of active
  // columns before them.
  template <int N>
  __device__ std::uint32_t bits(int column, int* active_before) const {
    const int lane = column / static_cast<int>(kWordColumns);
    const int shift = column % static_cast<int>(kWordColumns);
    const std::uint32_t its_word = __shfl_sync(kFullMask, word, lane);
    *active_before = __shfl_sync(kFullMask, before, lane) + __popc(its_word & ((1U << shift) - 1U));
    return N == kWordColumns ? its_word : (its_word >> shift) & ((1U << (N % kWordColumns)) - 1U);
  }
};

}  // namespace smet::kernels::cuda
