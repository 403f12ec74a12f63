// SPDX-License-Identifier: BSD-3-Clause
// The inner loops of tile_spmm, compiled once per instruction set like those of isa_kernels.h, and the packed
// layouts they work on.
//
//   packed activations  [tokens / width][features][width] fp32: one weight multiplies `width` neighbouring
//                       tokens; width is a multiple of 16, and zeros stand for tokens that do not exist
//   a panel             the columns of a segment of weights; columns are counted from the panel's first one
#pragma once

#include <cstdint>

namespace smet::kernels::cpu {

// Rows of one panel: the weights of the i-th are [begin[i], begin[i + 1]) of cols and values.
struct PanelRows {
  const std::uint32_t* begin;
  std::int64_t rows;
  const std::uint16_t* cols;
};

// y[order[i]][t] = (accumulate ? itself : 0) + sum of values[k] x[cols[k]][t] over the i-th row's weights.
// Rows come by their number of weights: nothing predicts where the loops over rows of changing length end.
struct SpmmRun {
  PanelRows panel;
  const std::uint16_t* order;  // null: the i-th row is row i
  const float* values;
  const float* x;  // packed, at the panel's first column
  float* y;        // packed, [rows][width]
  std::int64_t width;
  bool accumulate;
};
// Tokens that one pass over the weights multiplies; kPassTokens[i] is that of table entry i.
inline constexpr int kPassTokens[] = {16, 32, 64, 128};
inline constexpr int kPasses = 4;

// out[packed[i] + k - begin[i]] = (accumulate ? itself : 0) + sum over tiles and tokens of dy[order[i]]
// x[cols[k]]
struct SddmmRun {
  PanelRows panel;
  const std::uint32_t* packed;  // [rows] index in packed order of the first weight of order[i] in the panel
  const float* x;               // packed, at the panel's first column
  const float* dy;              // packed, at row 0
  std::int64_t width;
  std::int64_t tiles, x_stride, dy_stride;  // tiles, and elements from one to the next
  float* out;
  bool accumulate;
};

// One tile of `tokens` <= width tokens. Packing writes zeros for the missing ones; unpacking skips them.
struct PackRun {
  const void* x;
  std::int64_t stride, tokens, features;
  float* packed;
  std::int64_t width;
};
struct UnpackRun {
  const float* packed;
  std::int64_t width, tokens, features;
  const float* bias;  // [features], or null
  void* y;
  std::int64_t stride;
};

// A panel of W, rows x cols from a column that begins a mask word, in either direction. Weights are counted
// from `first` on; up to kDecodeSlack elements of `index` and `out` beyond the last are overwritten.
//   decode     the i-th row has [begin[i], begin[i + 1]), index = columns of the panel, ascending
//   transpose  the i-th column has [begin[i], begin[i + 1]), index = rows of the panel, ascending
inline constexpr std::int64_t kDecodeSlack = 32;
struct PanelRun {
  const std::uint32_t* words;  // of row 0, at the panel's first column
  std::int64_t words_per_row, rows, cols;
  std::uint32_t* cursor;  // [rows] index in packed order of each row's first weight of the panel; advanced
  const void* values;     // [nnz], or null: no values wanted
  std::int64_t nnz;
  std::uint32_t first;
  std::uint32_t* begin;
  std::uint16_t*
      order;  // gets which row or column is the i-th, by their number of weights. Null: as they are
  std::uint16_t* index;
  float* out;              // widened values
  std::uint32_t* lengths;  // scratch [rows or cols]
  std::uint32_t* counts;   // transpose: scratch [rows], counts or words of the mask
  std::uint16_t* decoded;  // transpose: scratch [the panel's weights + kDecodeSlack]
};

// Storage types of activations and values.
enum class Storage : std::uint8_t { f32, bf16, f16 };
inline constexpr int kStorages = 3;

// One table per file of kernels/cpu/isa.
struct TileProducts {
  int lanes;  // fp32 numbers of a vector
  void (*spmm[kPasses])(const SpmmRun& run);
  void (*sddmm)(const SddmmRun& run);
};
struct TileLayout {
  void (*pack[kStorages])(const PackRun& run);
  void (*unpack[kStorages])(const UnpackRun& run);
  void (*widen[kStorages])(const void* from, float* to, std::int64_t size);
  void (*narrow[kStorages])(const float* from, void* to, std::int64_t size);
};
struct TileDecode {  // both return `first` + the panel's weights
  std::uint32_t (*decode[kStorages])(const PanelRun& run);
  std::uint32_t (*transpose[kStorages])(const PanelRun& run);
};

}  // namespace smet::kernels::cpu
