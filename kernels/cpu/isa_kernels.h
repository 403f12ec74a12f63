// SPDX-License-Identifier: BSD-3-Clause
// The inner loops that exist once per instruction set. kernels/cpu/isa/*.cpp is compiled once for each, into
// the namespace SMET_ISA; kernels/cpu/*.cpp cut the work into chunks and call through the table below.
// Those objects include nothing but plain declarations: an inline function or template instantiated in one of
// them could be the copy that the linker keeps for the whole program, AVX instructions and all.
#pragma once

#include <cstdint>

namespace smet::kernels::cpu {

// Conversions between packed and dense elements: `copy` moves bits.
enum class Conversion : std::uint8_t { copy16, copy32, copy64, bf16_f32, f16_f32 };
inline constexpr int kConversions = 5;

// Columns [0, cols) of one row, beginning at a word boundary: values[index...] are its active weights.
struct ExpandRun {
  const std::uint32_t* words;
  std::int64_t cols;
  const void* values;
  std::int64_t index, nnz;  // nothing at or beyond values[nnz] is read
  void* dense;
};

// How a gathered element enters `out`: dtypes of dense and out, and whether it is added.
enum class GatherMode : std::uint8_t {
  copy16,
  copy32,
  copy64,
  f32_bf16,
  f32_f16,
  add_f32,
  add_f64,
  add_bf16,
  add_f16,
  add_f32_bf16,
  add_f32_f16,
};
inline constexpr int kGatherModes = 11;

// The same columns, the other way: out[index...] are their active weights.
struct GatherRun {
  const std::uint32_t* words;
  std::int64_t cols;
  const void* dense;
  void* out;
  std::int64_t index;
};

// Words of an old and a new mask; source[index...] and destination[new_index...] are their active weights.
struct RelayoutRun {
  const std::uint32_t* old_words;
  const std::uint32_t* new_words;
  std::int64_t words;
  const void* source;
  std::int64_t index, nnz;  // nothing at or beyond source[nnz] is read
  void* destination;
  std::int64_t new_index, new_end;  // destination[new_index...new_end) may be written, beyond the weights too
  const void* fill;
  std::uint8_t recycled;  // cohorts only: survivors with this id become 0
};

// Scores as they are stored: by width and by order (topology_update.h), f16 and bf16 alike.
struct ScoreRun {
  const void* score;
  std::int64_t begin, end;
};
inline constexpr int kDigitBits = 12;
inline constexpr int kHistogramBins = 1 << kDigitBits;

// Words of a mask; weights before (threshold, ties) are dropped from keep.
struct KeepRun {
  const std::uint32_t* words;
  std::uint32_t* keep;
  std::int64_t count;  // words
  const void* score;
  std::int64_t index, nnz;  // of the first word's first weight; nothing at or beyond score[nnz] is read
  std::uint64_t threshold;  // keys below it go
  std::int64_t ties;        // and so many of the keys equal to it, in order
};

// The next digit of the keys that begin like the one looked for: those with key >> upper == prefix, whose
// digit is the bits [lower, upper), at most kDigitBits of them.
struct Digit {
  std::uint64_t prefix;
  int upper, lower;
};

// A score dtype's kernels, for one order. A key is an unsigned integer of the dtype's width that grows with
// the score; 0 is NaN; equal scores (-0 and 0 too) have equal keys.
struct ScoreKernels {
  int shift;  // the first digit of a key is key >> shift
  // Adds the keys' first digits to histogram[kHistogramBins]; returns the number of NaN.
  std::int64_t (*histogram)(const ScoreRun& run, std::uint32_t* histogram);
  // Adds a later digit.
  void (*refine)(const ScoreRun& run, const Digit& digit, std::uint32_t* histogram);
  void (*keep)(const KeepRun& run);
};

// One chunk of one tensor. Tables hold (decay, -step_size, 1 / bc2_sqrt, unused) per cohort in the compute
// type.
struct AdamWChunk {
  void* param;
  const void* grad;
  void* exp_avg;
  void* exp_avg_sq;
  const std::uint8_t* cohort;  // null: table row 0
  std::int64_t size;
  std::int64_t first;  // index of param[0] in its tensor, a multiple of 16, for the keys
  const void* table;   // [rows][4]
  double beta1, beta2, eps, l2;
  bool maximize, stochastic_rounding;
  std::uint64_t rounding_key, moment_key;
  std::int16_t* master_low;  // of bf16 parameters, null: none
};

// A chunk of whole blocks of adamw_compact.h; moments are codes, and `first` is any number.
struct Block8Chunk {
  AdamWChunk weights;
  const std::int64_t* begins;  // [blocks + 1], ascending from 0 to weights.size
  std::int64_t blocks;
  float* scale;     // [blocks]
  float* scale_sq;  // [blocks]
};

// Sets hits[w] bit b for every column 32 w + b of [0, cols) whose mask bit is 0 and whose key of |grad|
// (grad_topk.h) is at least `threshold`.
struct TopkRun {
  const std::uint32_t* words;
  std::int64_t cols;
  const void* grad;
  std::uint64_t threshold;
  std::uint32_t* hits;  // [ceil(cols / 32)]
};

// Draws 2 h and 2 h + 1 for every h in [half, half + count): see keyed_draws.h.
struct DrawRun {
  std::uint64_t key;
  std::uint32_t stream, update;
  std::uint64_t half;
  std::int64_t count;
  std::uint64_t* draws;  // [2 count]
};

// One table a stem, indexed by DType tags and the enums above.
struct AdamWKernels {
  void (*chunk[4])(const AdamWChunk& chunk);
  bool (*has_nonfinite[4])(const void* data, std::int64_t size);
};
struct AdamWCompactKernels {
  // Both null for f64 parameters.
  void (*bf16[4])(const AdamWChunk& chunk);
  void (*block8[4])(const Block8Chunk& chunk);
};
struct ExpandKernels {
  void (*run[kConversions])(const ExpandRun& run);
};
struct GatherKernels {
  void (*run[kGatherModes])(const GatherRun& run);
};
struct MaskKernels {
  std::int64_t (*count_bits)(const std::uint32_t* words, std::int64_t count);
  void (*topk_hits[2])(const TopkRun& run);  // f32, f64
  void (*draws)(const DrawRun& run);
};
struct SelectKernels {
  ScoreKernels score[4][2];  // [dtype][order]
};
struct RelayoutKernels {
  void (*run[4])(const RelayoutRun& run);  // elements of 1, 2, 4 and 8 bytes
  void (*cohort)(const RelayoutRun& run, std::int64_t* died);
};

// tile_kernels.h
struct TileProducts;
struct TileLayout;
struct TileDecode;

struct IsaKernels {
  const char* name;
  const AdamWKernels* adamw_step;
  const AdamWCompactKernels* adamw_compact;
  const ExpandKernels* expand;
  const GatherKernels* gather;
  const MaskKernels* mask;
  const SelectKernels* select;
  const RelayoutKernels* relayout;
  const TileProducts* tile_products;
  const TileLayout* tile_layout;
  const TileDecode* tile_decode;
};

// Defined by kernels/cpu/isa/table.cpp.
namespace baseline {
extern const IsaKernels kKernels;
}
namespace avx2 {
extern const IsaKernels kKernels;
}
namespace avx512 {
extern const IsaKernels kKernels;
}

// The table in use, or null when isa_error() says why there is none.
const IsaKernels* isa_kernels();

}  // namespace smet::kernels::cpu
