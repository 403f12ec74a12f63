// SPDX-License-Identifier: BSD-3-Clause
// gather: one warp per segment. It reads the dense row 16 bytes per lane, packs the active elements in shared
// memory, and then writes them contiguously, 16 bytes per lane. The packed run begins anywhere; it is shifted
// in shared memory so that both sides of the copy are aligned alike.
#pragma once

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/segment.cuh"
#include "kernels/gather.h"

namespace smet::kernels::cuda {

// Packs a segment into `stage`, reading N columns per lane, and none where no column is active.
template <int N, typename T>
__device__ __forceinline__ void pack_segment(const Segment& segment, int width, const T* dense, T* stage) {
  using In = Vector<T, N>;
  for (int base = 0; base < width; base += kWarp * N) {
    const int column = base + lane_index() * N;
    int index;
    const std::uint32_t bits = segment.bits<N>(column, &index);
    if (bits == 0) continue;  // no warp operation follows in this round
    In in{};
    if (column + N <= width) {
      in = *reinterpret_cast<const In*>(dense + column);
    } else {
      for (int i = 0; i < N; ++i) {
        if (column + i < width) in.at[i] = dense[column + i];
      }
    }
    for (int i = 0; i < N; ++i) {
      if (((bits >> i) & 1U) != 0) stage[index++] = in.at[i];
    }
  }
}

template <typename Dense, typename Out>
__device__ __forceinline__ typename Out::Storage gathered(typename Dense::Storage x,
                                                          typename Out::Storage old, bool accumulate) {
  if (!accumulate) return convert<Dense, Out>(x);
  return Out::store(Out::load(old) + Dense::load(x));
}

// out[i] = stage[i] for i in [begin, end), N at a time; `out` is aligned for vectors, `stage` too.
template <typename Dense, typename Out, int N>
__device__ __forceinline__ void write_run(const typename Dense::Storage* stage, typename Out::Storage* out,
                                          int begin, int end, bool accumulate) {
  using In = Vector<typename Dense::Storage, N>;
  using To = Vector<typename Out::Storage, N>;
  for (int at = lane_index() * N; at < end; at += kWarp * N) {
    if (at >= begin && at + N <= end) {
      const In in = *reinterpret_cast<const In*>(stage + at);
      To to{};
      if (accumulate) to = *reinterpret_cast<const To*>(out + at);
      for (int i = 0; i < N; ++i) to.at[i] = gathered<Dense, Out>(in.at[i], to.at[i], accumulate);
      store_whole(out + at, to);
      continue;
    }
    for (int i = at < begin ? begin : at; i < at + N && i < end; ++i) {
      const auto old = accumulate ? out[i] : typename Out::Storage{0};
      out[i] = gathered<Dense, Out>(stage[i], old, accumulate);
    }
  }
}

template <typename Dense, typename Out>
__global__ void __launch_bounds__(kSegmentThreads)
    gather_kernel(const GatherArgs args, std::int64_t segments) {
  using From = typename Dense::Storage;
  using To = typename Out::Storage;
  constexpr int kRead = 16 / sizeof(From);
  constexpr int kWrite = 16 / sizeof(To);
  SMET_SHARED(From, stages, [kSegmentWarps][kSegmentColumns + kWrite]);
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kSegmentWarps + warp_of_block();
  if (index >= segments) return;  // a whole warp, and no barrier of the block follows

  const Place place = place_of(args.tile, index);
  const Segment segment = Segment::load(args.pattern.mask, args.pattern.cols, place);
  const From* dense = static_cast<const From*>(args.dense) + (place.row - args.tile.row_begin) * args.stride +
                      (place.col - args.tile.col_begin);
  To* out = static_cast<To*>(args.out) + args.pattern.rank[rank_index(args.pattern.cols, place)];
  const int shift = static_cast<int>(reinterpret_cast<std::uintptr_t>(out) / sizeof(To) % kWrite);

  From* stage = stages[warp_of_block()];
  if (aligned_for<Vector<From, kRead>>(dense)) {
    pack_segment<kRead>(segment, place.width, dense, stage + shift);
  } else {
    pack_segment<1>(segment, place.width, dense, stage + shift);
  }
  __syncwarp();
  write_run<Dense, Out, kWrite>(stage, out - shift, shift, shift + segment.count, args.accumulate);
}

}  // namespace smet::kernels::cuda
