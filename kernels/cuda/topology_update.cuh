// SPDX-License-Identifier: BSD-3-Clause
// select_keep: a radix select over (score, flat position), then one warp per segment writes what stays.
// relayout: one warp per segment moves everything that a layer stores per weight.
#pragma once

#include "kernels/cuda/order_key.cuh"
#include "kernels/cuda/radix_select.cuh"
#include "kernels/cuda/segment.cuh"
#include "kernels/topology_update.h"

namespace smet::kernels::cuda {

// The scores as items: packed order is the order of the positions.
template <typename Type, ScoreOrder order>
struct Scores {
  const typename Type::Storage* score;
  std::int64_t count;

  __device__ std::int64_t items() const { return count; }
  __device__ SelectItem item(std::int64_t i) const {
    const auto x = score[i];
    return {order == ScoreOrder::magnitude ? magnitude_key<Type>(x) : signed_key<Type>(x),
            static_cast<std::uint64_t>(i)};
  }
};

__device__ __forceinline__ int active_below(std::uint32_t word) {
  return __popc(word & ((1U << lane_index()) - 1U));
}

// keep = mask less what the selection takes; NaN scores are counted on the way.
template <typename Type, ScoreOrder order>
__global__ void __launch_bounds__(kSegmentThreads)
    keep_kernel(const Pattern pattern, const Scores<Type, order> scores, const Selection* selection,
                std::int64_t segments, std::uint32_t* keep, unsigned long long* nan_count) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kSegmentWarps + warp_of_block();
  if (index >= segments) return;  // a whole warp, and no barrier of the block follows
  const Place place = place_of({0, pattern.rows, 0, pattern.cols}, index);
  const Segment segment = Segment::load(pattern.mask, pattern.cols, place);
  const std::int64_t first = pattern.rank[rank_index(pattern.cols, place)];
  std::uint32_t kept = segment.word;
  int nan = 0;
  for (int w = 0; w * kWordColumns < place.width; ++w) {
    const std::uint32_t word = __shfl_sync(kFullMask, segment.word, w);
    const int before = __shfl_sync(kFullMask, segment.before, w);
    bool pruned = false;
    if (((word >> lane_index()) & 1U) != 0) {
      const SelectItem item = scores.item(first + before + active_below(word));
      pruned = selection->takes(item);
      nan += static_cast<int>(item.key == 0);
    }
    const unsigned gone = __ballot_sync(kFullMask, static_cast<int>(pruned));
    if (lane_index() == w) kept &= ~gone;
  }
  if (lane_index() * kWordColumns < place.width) {
    keep[place.row * words_per_row(pattern.cols) + place.col / kWordColumns + lane_index()] = kept;
  }
  nan = warp_sum(nan);
  if (lane_index() == 0 && nan > 0) atomicAdd(nan_count, static_cast<unsigned long long>(nan));
}

// ---------------------------------------------------------------- relayout

struct RelayoutBatch {
  Pattern old_pattern, new_pattern;
  std::int64_t segments;
  int count;
  RelayoutArray arrays[kRelayoutArrays];
  const std::uint8_t* cohort;
  std::uint8_t* new_cohort;
  std::uint8_t newborn;
  unsigned long long* died;  // [256]; null: no cohort
};

template <typename T>
__device__ __forceinline__ void move_one(const RelayoutArray& array, bool survives, std::int64_t from,
                                         std::int64_t to) {
  const T x = survives ? static_cast<const T*>(array.source)[from] : static_cast<T>(array.fill);
  static_cast<T*>(array.destination)[to] = x;
}

__device__ __forceinline__ void move_one(const RelayoutArray& array, bool survives, std::int64_t from,
                                         std::int64_t to) {
  switch (array.element_bytes) {
    case 1:
      return move_one<std::uint8_t>(array, survives, from, to);
    case 2:
      return move_one<std::uint16_t>(array, survives, from, to);
    case 4:
      return move_one<std::uint32_t>(array, survives, from, to);
    default:
      return move_one<std::uint64_t>(array, survives, from, to);
  }
}

// One column of a segment, active before (`was`) or after (`is`) the update or both.
__device__ __forceinline__ void relayout_column(const RelayoutBatch& batch, bool was, bool is,
                                                std::int64_t from, std::int64_t to, std::uint32_t* died) {
  if (is) {
    for (int a = 0; a < batch.count; ++a) move_one(batch.arrays[a], was, from, to);
  }
  if (batch.died == nullptr) return;
  if (is) {
    const std::uint8_t id = was ? batch.cohort[from] : batch.newborn;
    batch.new_cohort[to] = was && id == batch.newborn ? std::uint8_t{0} : id;
  } else if (was) {
    atomicAdd(&died[batch.cohort[from]], 1U);
  }
}

__device__ __forceinline__ void relayout_segment(const RelayoutBatch& batch, std::int64_t index,
                                                 std::uint32_t* died) {
  const std::int64_t cols = batch.old_pattern.cols;
  const Place place = place_of({0, batch.old_pattern.rows, 0, cols}, index);
  const Segment old_segment = Segment::load(batch.old_pattern.mask, cols, place);
  const Segment new_segment = Segment::load(batch.new_pattern.mask, cols, place);
  const std::int64_t old_first = batch.old_pattern.rank[rank_index(cols, place)];
  const std::int64_t new_first = batch.new_pattern.rank[rank_index(cols, place)];
  for (int w = 0; w * kWordColumns < place.width; ++w) {
    const std::uint32_t old_word = __shfl_sync(kFullMask, old_segment.word, w);
    const std::uint32_t new_word = __shfl_sync(kFullMask, new_segment.word, w);
    const std::int64_t from =
        old_first + __shfl_sync(kFullMask, old_segment.before, w) + active_below(old_word);
    const std::int64_t to =
        new_first + __shfl_sync(kFullMask, new_segment.before, w) + active_below(new_word);
    relayout_column(batch, ((old_word >> lane_index()) & 1U) != 0, ((new_word >> lane_index()) & 1U) != 0,
                    from, to, died);
  }
}

static __global__ void __launch_bounds__(kSegmentThreads) relayout_kernel(const RelayoutBatch batch) {
  constexpr int kIds = 256;
  SMET_SHARED(std::uint32_t, died, [kIds]);
  for (int id = static_cast<int>(threadIdx.x); id < kIds; id += kSegmentThreads) died[id] = 0;
  __syncthreads();
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kSegmentWarps + warp_of_block();
  if (index < batch.segments) relayout_segment(batch, index, died);
  __syncthreads();
  for (int id = static_cast<int>(threadIdx.x); id < kIds; id += kSegmentThreads) {
    if (died[id] != 0) atomicAdd(&batch.died[id], static_cast<unsigned long long>(died[id]));
  }
}

}  // namespace smet::kernels::cuda
