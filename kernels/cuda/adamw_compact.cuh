// SPDX-License-Identifier: BSD-3-Clause
// adamw_compact, block8: one warp per block of weights. It goes over the block twice, since a code can be
// chosen only when the block's new scale is known; the second time the block, about 2 KB, comes from the
// cache. bf16 moments are adamw_step's kernel with another storage.
#pragma once

#include "kernels/adamw_compact.h"
#include "kernels/block8.h"
#include "kernels/cuda/adamw_step.cuh"

namespace smet::kernels::cuda {

inline constexpr int kBlock8Warps = kStepThreads / kWarp;
inline constexpr int kBlocksPerWarp = 4;
inline constexpr std::int64_t kBlock8Chunk = kBlock8Warps * kBlocksPerWarp;  // blocks of weights
inline constexpr int kBlock8Elements = 2;  // per lane and round; four would spill on sm_100 and sm_120

struct Block8Item {
  StepItem<float> step;
  const std::int32_t* rank;
  std::int64_t rows, cols, blocks;
  std::int64_t block_segments;
  float* scale;
  float* scale_sq;
};

// The first weight of a segment; of the next row where the row has no such segment. A rank that does not
// belong to the weights, which only the CPU reports, leads nowhere outside them.
__device__ __forceinline__ std::int64_t first_weight(const Block8Item& item, std::int64_t row,
                                                     std::int64_t segment) {
  const std::int64_t segments = segments_per_row(item.cols);
  if (segment >= segments) {
    ++row;
    segment = 0;
  }
  if (row >= item.rows) return item.step.size;
  if (item.rank != nullptr) {
    return min(max(std::int64_t{item.rank[row * segments + segment]}, std::int64_t{0}), item.step.size);
  }
  return row * item.cols + segment * kSegmentColumns;
}

// What a lane's weights are before the step.
template <typename Type>
struct LaneWeights {
  Vector<typename Type::Storage, kBlock8Elements> param, grad;
  Vector<std::uint8_t, kBlock8Elements> m, v;
  Vector<std::int16_t, kBlock8Elements> low;

  __device__ static LaneWeights load(const StepItem<float>& item, std::int64_t i, const Part& part) {
    constexpr int kCount = kBlock8Elements;
    using Storage = typename Type::Storage;
    return {load_part<kCount>(static_cast<const Storage*>(item.param), i, part),
            load_part<kCount>(static_cast<const Storage*>(item.grad), i, part),
            load_part<kCount>(static_cast<const std::uint8_t*>(item.exp_avg), i, part),
            load_part<kCount>(static_cast<const std::uint8_t*>(item.exp_avg_sq), i, part),
            load_low<Type, kCount>(item, i, part)};
  }
};

// The moments of weight e after the step; returns sqrt(v), by way of which v is stored.
template <typename Type>
__device__ __forceinline__ float moments_of(const LaneWeights<Type>& some, int e,
                                            const StepScalars<float>& scalars, const float* grad_scale,
                                            float unit, float unit_sq, float* m) {
  const float param = weight_of<Type>(some.param.at[e], some.low.at[e]);
  const float grad = effective_grad<float>(Type::load(some.grad.at[e]), param, grad_scale, scalars);
  const float root = block8_sqrt_v(unit_sq, some.v.at[e]);
  float v = root * root;
  *m = block8_m(unit, some.m.at[e]);
  update_moments(grad, scalars, m, &v);
  return square_root(v);
}

__device__ __forceinline__ std::uint8_t m_code(float m, float per_unit, std::uint32_t noise) {
  const float units = block8_units(fabsf(m), per_unit, kBlock8MaxM);
  const int code = block8_code(units, square_root(units), noise);
  return static_cast<std::uint8_t>(m < 0 ? -code : code);
}
__device__ __forceinline__ std::uint8_t v_code(float root, float per_unit, std::uint32_t noise) {
  const float units = block8_units(root, per_unit, kBlock8MaxV);
  const int code = block8_code(units, square_root(units), noise);
  return static_cast<std::uint8_t>(root > 0 && code == 0 ? 1 : code);
}

// One block of weights, [first, last), by one warp.
template <typename Type>
__device__ __forceinline__ void step_block8(const Block8Item& item, const StepRow<float>* rows,
                                            const StepKeys& keys, const float* grad_scale, std::int64_t block,
                                            std::int64_t first, std::int64_t last) {
  constexpr int kCount = kBlock8Elements;
  const StepItem<float>& step = item.step;
  const float old_unit = block8_unit(item.scale[block], kBlock8MaxM);
  const float old_unit_sq = block8_unit(item.scale_sq[block], kBlock8MaxV);
  const std::int64_t start = first / kCount * kCount + lane_index() * kCount;

  // As bits, magnitudes order as numbers do, and NaN is the largest.
  std::uint32_t most = 0;
  std::uint32_t most_sq = 0;
  for (std::int64_t i = start; i < last; i += kWarp * kCount) {
    const Part part = Part::of<kCount>(i, first, last, step.vectors);
    const auto some = LaneWeights<Type>::load(step, i, part);
    for (int e = 0; e < kCount; ++e) {
      if (!part.has(e)) continue;
      float m;
      const float root = moments_of(some, e, step.scalars, grad_scale, old_unit, old_unit_sq, &m);
      most = max(most, float_bits(m) & 0x7FFFFFFFU);
      most_sq = max(most_sq, float_bits(root) & 0x7FFFFFFFU);
    }
  }
  const float scale = bits_float(__reduce_max_sync(kFullMask, most));
  const float scale_sq = bits_float(__reduce_max_sync(kFullMask, most_sq));
  const float per_unit = block8_per_unit(block8_unit(scale, kBlock8MaxM));
  const float per_unit_sq = block8_per_unit(block8_unit(scale_sq, kBlock8MaxV));
  __syncwarp();  // all lanes have read the old scales
  if (lane_index() == 0) {
    item.scale[block] = scale;
    item.scale_sq[block] = scale_sq;
  }

  for (std::int64_t i = start; i < last; i += kWarp * kCount) {
    const Part part = Part::of<kCount>(i, first, last, step.vectors);
    auto some = LaneWeights<Type>::load(step, i, part);
    Vector<std::uint8_t, kCount> ids{};
    if (step.cohort != nullptr) ids = load_part<kCount>(step.cohort, i, part);
    const RunHash moments_hash = hash32_run(keys.moments, static_cast<std::uint64_t>(i));
    const RunHash rounding_hash = hash32_run(keys.rounding, static_cast<std::uint64_t>(i));
    for (int e = 0; e < kCount; ++e) {
      if (!part.has(e)) continue;
      float m;
      const float root = moments_of(some, e, step.scalars, grad_scale, old_unit, old_unit_sq, &m);
      const float param = weight_of<Type>(some.param.at[e], some.low.at[e]);
      const float result = updated_param(param, m, root, rows[ids.at[e]], step.scalars);
      some.param.at[e] = stored_param<Type>(result, step.rounding, rounding_hash, e, &some.low.at[e]);
      const std::uint32_t noise = hash32(moments_hash, e);
      some.m.at[e] = m_code(m, per_unit, noise);
      some.v.at[e] = v_code(root, per_unit_sq, noise >> 16);
    }
    store_part(static_cast<typename Type::Storage*>(step.param), i, part, some.param);
    store_low<Type>(step, i, part, some.low);
    store_part(static_cast<std::uint8_t*>(step.exp_avg), i, part, some.m);
    store_part(static_cast<std::uint8_t*>(step.exp_avg_sq), i, part, some.v);
  }
}

template <typename Type>
__global__ void __launch_bounds__(kStepThreads, kStepBlocks<float>)
    block8_kernel(const Batch<Block8Item> batch, const StepControl control) {
  SMET_SHARED(StepRow<float>, rows, [kMaxCohorts]);
  SMET_SHARED(StepKeys, keys, [1]);
  // The same for every thread of the grid, so nobody waits at the barrier for those that leave.
  if (control.found_inf != nullptr && *control.found_inf != 0) return;
  unsigned chunk = blockIdx.x;
  const Block8Item& item = batch.find(&chunk);
  if (threadIdx.x == 0) keys[0] = item.step.device_keys == nullptr ? item.step.keys : *item.step.device_keys;
  load_rows(item.step.cohorts, item.step.cohort_rows, rows);  // and a barrier
  const std::int64_t per_row = blocks_per_row(item.cols, item.block_segments);
  for (int i = 0; i < kBlocksPerWarp; ++i) {
    const std::int64_t block = chunk * kBlock8Chunk + i * kBlock8Warps + warp_of_block();
    if (block >= item.blocks) break;
    const std::int64_t row = block / per_row;
    const std::int64_t segment = (block - row * per_row) * item.block_segments;
    step_block8<Type>(item, rows, keys[0], control.grad_scale, block, first_weight(item, row, segment),
                      first_weight(item, row, segment + item.block_segments));
  }
}

}  // namespace smet::kernels::cuda
