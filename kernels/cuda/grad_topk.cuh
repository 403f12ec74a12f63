// SPDX-License-Identifier: BSD-3-Clause
// grad_topk: every tile is filtered against the k-th best so far, what passes is appended to the candidates,
// and when there could be too many for the next batch, a radix select thins them to the best k. The order of
// the candidates depends on timing, the set does not.
#pragma once

#include "kernels/cuda/order_key.cuh"
#include "kernels/cuda/radix_select.cuh"
#include "kernels/cuda/segment.cuh"
#include "kernels/grad_topk.h"

namespace smet::kernels::cuda {

// A candidate as an item: the smaller, the better, so its key is the complement of |dW|'s.
struct TopkState {
  unsigned long long count;  // candidates held
  unsigned long long kept;   // of them, moved by the thinning that runs
  std::uint64_t threshold;   // a newcomer's key must not be above
  std::uint32_t thinning;    // whether one runs
  Selection selection;
};

struct Candidates {
  const SelectItem* list;
  const TopkState* state;

  __device__ std::int64_t items() const { return static_cast<std::int64_t>(state->count); }
  __device__ SelectItem item(std::int64_t i) const { return list[i]; }
};

template <typename Type>
__device__ __forceinline__ std::uint64_t growth_key(typename Type::Storage x) {
  return (~std::uint64_t{0} >> (64 - kKeyBits<Type>)) - magnitude_key<Type>(x);
}

static __global__ void begin_topk_kernel(TopkState* state) {
  state->count = 0;
  state->kept = 0;
  state->threshold = ~std::uint64_t{0};
  state->thinning = 0;
}

// Appends the candidates of segments [first, first + segments) of the tile.
template <typename Type>
__global__ void __launch_bounds__(kSegmentThreads)
    filter_kernel(const GradTopkTileArgs args, std::int64_t first, std::int64_t segments, TopkState* state,
                  SelectItem* candidates) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kSegmentWarps + warp_of_block();
  if (index >= segments) return;  // a whole warp, and no barrier of the block follows
  const Place place = place_of(args.tile, first + index);
  const std::uint32_t word_here = segment_word(args.mask, args.cols, place);
  const auto* grad = static_cast<const typename Type::Storage*>(args.grad) +
                     (place.row - args.tile.row_begin) * args.stride + (place.col - args.tile.col_begin);
  const std::uint64_t threshold = state->threshold;
  for (int w = 0; w * kWordColumns < place.width; ++w) {
    const std::uint32_t word = __shfl_sync(kFullMask, word_here, w);
    const int column = w * static_cast<int>(kWordColumns) + lane_index();
    SelectItem item = {0, 0};
    bool enters = false;
    if (column < place.width && ((word >> lane_index()) & 1U) == 0) {
      item = {growth_key<Type>(grad[column]),
              static_cast<std::uint64_t>(place.row * args.cols + place.col + column)};
      enters = item.key <= threshold;
    }
    const unsigned entering = __ballot_sync(kFullMask, static_cast<int>(enters));
    unsigned long long slot = 0;
    if (lane_index() == 0 && entering != 0) {
      slot = atomicAdd(&state->count, static_cast<unsigned long long>(__popc(entering)));
    }
    slot = __shfl_sync(kFullMask, slot, 0);
    if (enters)
      candidates[slot + static_cast<unsigned>(__popc(entering & ((1U << lane_index()) - 1U)))] = item;
  }
}

// One block. Begins a selection of the best k where there are more.
static __global__ void __launch_bounds__(kSelectThreads)
    begin_thinning_kernel(TopkState* state, std::uint64_t k) {
  const bool needed = state->count > k;
  begin_selection(&state->selection, needed ? k : 0);
  if (threadIdx.x == 0) state->thinning = needed ? 1 : 0;
}

static __global__ void __launch_bounds__(kSelectThreads)
    keep_best_kernel(const SelectItem* candidates, TopkState* state, SelectItem* best) {
  if (state->thinning == 0) return;
  const auto count = static_cast<std::int64_t>(state->count);
  for (std::int64_t i = global_thread(); i < count; i += all_threads()) {
    const SelectItem item = candidates[i];
    if (state->selection.takes(item)) best[atomicAdd(&state->kept, 1ULL)] = item;
  }
}

static __global__ void __launch_bounds__(kSelectThreads)
    copy_best_kernel(const SelectItem* best, TopkState* state, std::int64_t k, SelectItem* candidates) {
  if (state->thinning == 0) return;
  for (std::int64_t i = global_thread(); i < k; i += all_threads()) candidates[i] = best[i];
  if (global_thread() != 0) return;
  state->count = static_cast<unsigned long long>(k);
  state->kept = 0;
  state->threshold = state->selection.last.key;
}

// The candidates as a bitmap of the mask's shape, which is all zeros before.
static __global__ void __launch_bounds__(kSelectThreads)
    mark_kernel(const SelectItem* candidates, const TopkState* state, std::int64_t cols,
                std::uint32_t* bitmap) {
  const auto count = static_cast<std::int64_t>(state->count);
  for (std::int64_t i = global_thread(); i < count; i += all_threads()) {
    const auto position = static_cast<std::int64_t>(candidates[i].index);
    const std::int64_t col = position % cols;
    atomicOr(&bitmap[position / cols * words_per_row(cols) + col / kWordColumns], 1U << (col % kWordColumns));
  }
}

// positions[i] = the i-th set position of the bitmap.
static __global__ void __launch_bounds__(kSegmentThreads)
    list_kernel(const Pattern bitmap, std::int64_t segments, std::int64_t* positions) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kSegmentWarps + warp_of_block();
  if (index >= segments) return;  // a whole warp, and no barrier of the block follows
  const Place place = place_of({0, bitmap.rows, 0, bitmap.cols}, index);
  const Segment segment = Segment::load(bitmap.mask, bitmap.cols, place);
  std::int64_t* out = positions + bitmap.rank[rank_index(bitmap.cols, place)] + segment.before;
  const std::int64_t first = place.row * bitmap.cols + place.col + lane_index() * kWordColumns;
  for (std::uint32_t bits = segment.word; bits != 0; bits &= bits - 1)
    *out++ = first + __ffs(static_cast<int>(bits)) - 1;
}

}  // namespace smet::kernels::cuda
