// SPDX-License-Identifier: BSD-3-Clause
// csr_columns: a warp per segment, a word of 32 columns at a time, so that neighbouring lanes store to
// neighbouring addresses.
#pragma once

#include "kernels/cuda/segment.cuh"

namespace smet::kernels::cuda {

static __global__ void __launch_bounds__(kSegmentThreads)
    csr_columns_kernel(const Pattern pattern, std::int64_t segments, std::int32_t* columns) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kSegmentWarps + warp_of_block();
  if (index >= segments) return;  // a whole warp, and no barrier of the block follows
  const Place place = place_of({0, pattern.rows, 0, pattern.cols}, index);
  const std::uint32_t word_here = segment_word(pattern.mask, pattern.cols, place);
  std::int32_t* out = columns + pattern.rank[rank_index(pattern.cols, place)];
  for (int w = 0; w * kWordColumns < place.width; ++w) {
    const std::uint32_t word = __shfl_sync(kFullMask, word_here, w);
    if (((word >> lane_index()) & 1U) != 0) {
      out[__popc(word & ((1U << lane_index()) - 1U))] =
          static_cast<std::int32_t>(place.col + w * kWordColumns + lane_index());
    }
    out += __popc(word);
  }
}

}  // namespace smet::kernels::cuda
