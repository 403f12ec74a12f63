// SPDX-License-Identifier: BSD-3-Clause
// expand: one warp per segment; every lane looks up and writes 16 bytes of the dense row at a time.
#pragma once

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/segment.cuh"

namespace smet::kernels::cuda {

// Writes a segment N columns per lane. N = 1 serves rows that are not aligned for vectors: neighbouring lanes
// then write neighbouring elements.
template <typename Values, typename Dense, int N>
__device__ __forceinline__ void expand_segment(const Segment& segment, int width,
                                               const typename Values::Storage* values,
                                               typename Dense::Storage* dense) {
  using Out = Vector<typename Dense::Storage, N>;
  for (int base = 0; base < width; base += kWarp * N) {
    const int column = base + lane_index() * N;
    int index;
    const std::uint32_t bits = segment.bits<N>(column, &index);
    Out out;
    for (int i = 0; i < N; ++i) {
      const bool active = ((bits >> i) & 1U) != 0;
      out.at[i] = active ? convert<Values, Dense>(values[index++]) : typename Dense::Storage{0};
    }
    if (column + N <= width) {
      store_whole(dense + column, out);
    } else {
      for (int i = 0; i < N; ++i) {
        if (column + i < width) dense[column + i] = out.at[i];
      }
    }
  }
}

template <typename Values, typename Dense>
__global__ void __launch_bounds__(kSegmentThreads)
    expand_kernel(const ExpandArgs args, std::int64_t segments) {
  using To = typename Dense::Storage;
  constexpr int kPerLane = 16 / sizeof(To);
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kSegmentWarps + warp_of_block();
  if (index >= segments) return;  // a whole warp, and no barrier of the block follows

  const Place place = place_of(args.tile, index);
  const Segment segment = Segment::load(args.pattern.mask, args.pattern.cols, place);
  const auto* values = static_cast<const typename Values::Storage*>(args.values) +
                       args.pattern.rank[rank_index(args.pattern.cols, place)];
  To* dense = static_cast<To*>(args.dense) + (place.row - args.tile.row_begin) * args.stride +
              (place.col - args.tile.col_begin);
  if (aligned_for<Vector<To, kPerLane>>(dense)) {
    expand_segment<Values, Dense, kPerLane>(segment, place.width, values, dense);
  } else {
    expand_segment<Values, Dense, 1>(segment, place.width, values, dense);
  }
}

}  // namespace smet::kernels::cuda
