// SPDX-License-Identifier: BSD-3-Clause
// adamw_compact: adamw_step with moments stored in two bytes or one each.
//
// The arithmetic is that of adamw_step.h in fp32, on moments that are read as below; the parameter moves by
// the new moments as computed, which are then stored. Both formats round at random, by hash32(key, i) of
// rounding_hash.h: low 16 bits for m, high 16 for v. Rounding to nearest would be wrong, not just inexact: at
// beta2 = .999 one step changes v by less than half a unit of either format, so v would never decay.
//
// bf16: [n] each, rounded up or down with probability by distance. A v above 0 becomes at least the smallest
// subnormal, 9e-41, since with eps = 0 a v of 0 beside an m that is not would make the next update infinite.
//
// block8: one code per weight, and one fp32 scale per block, for each moment. A block is `block_segments`
// whole segments of one row, about 256 weights, so it is owned by positions: a topology update moves codes,
// never a scale, and a survivor keeps its moments bit for bit. With scale = the largest |m|, or the largest
// sqrt(v), of the block, all operations in fp32:
//   m       = (scale / 127^2) * (c |c|)          c = -127 to 127, stored as int8
//   sqrt(v) = (scale_sq / 255^2) * c^2           c = 0 to 255
// Squares, because they are fine near zero (6e-5 and 1.5e-5 of the scale) and need no table. A magnitude
// between two codes becomes the upper one with probability by distance, so its mean is exact; a v above 0
// never gets code 0, which would make its next update infinite. Code 0 is 0: a newborn's. A moment that is
// NaN or infinite makes its whole block NaN or infinite, which adamw_step's callers rule out by looking at
// the gradients.
#pragma once

#include "kernels/adamw_step.h"

namespace smet::kernels {

enum class MomentFormat : std::uint8_t { bf16, block8 };

// The size of a block, and how many a row has: functions of the layer's shape and count, which no topology
// update changes.
constexpr std::int64_t block8_segments(std::int64_t rows, std::int64_t cols, std::int64_t n) {
  constexpr std::int64_t kWeights = 256;
  const std::int64_t whole_row = segments_per_row(cols) > 0 ? segments_per_row(cols) : 1;
  if (n == 0) return whole_row;
  const double per_segment = static_cast<double>(n) /
                             (static_cast<double>(rows) * static_cast<double>(cols)) *
                             static_cast<double>(kSegmentColumns);
  const double wanted = static_cast<double>(kWeights) / per_segment + 0.5;
  if (wanted >= static_cast<double>(whole_row)) return whole_row;
  return wanted < 1 ? 1 : static_cast<std::int64_t>(wanted);
}
constexpr std::int64_t blocks_per_row(std::int64_t cols, std::int64_t block_segments) {
  return (segments_per_row(cols) + block_segments - 1) / block_segments;
}
// Whether a dense tensor of so many columns is worth block8: scales of short rows take more than codes save.
// A vector has one column.
constexpr bool block8_worthwhile(std::int64_t cols) {
  return cols >= 64;
}

// The storage of one tensor's moments; AdamWTensor's exp_avg and exp_avg_sq point to bf16 or to codes.
struct CompactMoments {
  MomentFormat format;
  std::uint64_t key;         // of the random bits: another one for every tensor and step
  const std::int32_t* rank;  // block8: Pattern's; null: a dense tensor, all rows x cols positions are active
  std::int64_t rows, cols;
  std::int64_t block_segments;
  float* scale;     // [rows, blocks_per_row]
  float* scale_sq;  // [rows, blocks_per_row]

  std::int64_t blocks() const { return rows * blocks_per_row(cols, block_segments); }
  // Where a block begins among `size` weights, and so where the one before it ends; `size` for blocks().
  std::int64_t block_begin(std::int64_t block, std::int64_t size) const {
    const std::int64_t per_row = blocks_per_row(cols, block_segments);
    const std::int64_t row = per_row > 0 ? block / per_row : rows;
    if (row >= rows) return size;
    const std::int64_t segment = (block - row * per_row) * block_segments;
    return rank != nullptr ? rank[row * segments_per_row(cols) + segment]
                           : row * cols + segment * kSegmentColumns;
  }
};

// Parameters are f32, bf16 or f16, else unsupported_dtype. invalid_argument: block_segments below 1, and on
// the CPU whatever block8_fits denies.
struct AdamWCompactArgs {
  const AdamWTensor* tensors;
  const CompactMoments* moments;  // one for each
  std::int64_t count;
};

// Whether 8-bit moments are of `size` weights: block_segments at least 1, a rank that ascends from 0 to at
// most size, or without one rows * cols = size.
bool block8_fits(const CompactMoments& moments, std::int64_t size);

// Moments in fp32 from codes [size] and scales that fit, and back, to the nearest code; a v above 0 gets one
// above 0. For loading state of another format: plain loops on one thread.
void block8_decode(const CompactMoments& moments, std::int64_t size, const std::int8_t* codes_m,
                   const std::uint8_t* codes_v, float* m, float* v);
void block8_encode(const CompactMoments& moments, std::int64_t size, const float* m, const float* v,
                   std::int8_t* codes_m, std::uint8_t* codes_v);

namespace reference {
Status adamw_compact(const Executor& executor, const AdamWCompactArgs& args);
}
namespace cpu {
Status adamw_compact(const Executor& executor, const AdamWCompactArgs& args);
}  // namespace cpu
namespace cuda {
Status adamw_compact(Stream stream, const AdamWCompactArgs& args, const StepControl& control);
}

}  // namespace smet::kernels
