// SPDX-License-Identifier: BSD-3-Clause
// tile_spmm, how a product is cut and in which order its weights are visited.
//
//   for each tile of tokens            [features][tile] fp32, in the L2 cache
//     for each block of output rows    [block][tile] of y stays in the L2 cache
//       for each panel of columns      [panel][tile] of x stays in the L1 cache
//         for each row of the block    its weights of the panel: one broadcast each; rows by their number of
//         them
//
// A TilePlan is W, or its transpose, in that order: 16-bit columns counted from the panel's first one, and
// fp32 values. It lives for one call. Results do not depend on who computes what: a sum's order is given by
// the panels alone.
#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/tile_kernels.h"
#include "kernels/types.h"

namespace smet::kernels::cpu {

// A product's blocks of output rows and panels of columns, multiples of kWordColumns.
struct TileCut {
  std::int64_t panel, block;
  bool by_length = false;  // a panel's rows come by their number of weights, else as they are
};

struct TileShape {
  std::int64_t width;  // tokens of a tile
  int pass;            // of kPassTokens
  TileCut product;     // of forward and input gradient
  TileCut gradient;    // of the values gradient: a panel of x serves a block of rows before the next one
  std::int64_t tiles;  // that the values gradient sums in registers
  // Tokens whose packed x and dy exist at a time in a backward pass that all threads make together, at least
  // one tile for each of them.
  std::int64_t backward;
};

// The shape for a pattern of this density, a number of tokens and vectors of so many lanes; the measurements
// stand beside the numbers. Threads decide how many blocks there are and nothing else: no sum's order depends
// on that.
TileShape tile_shape(const Pattern& pattern, std::int64_t tokens, std::int64_t threads, int lanes);

// Panel and block counts of a rows x cols product.
struct TileGrid {
  std::int64_t rows, cols, panel, block;

  std::int64_t panels() const { return cols > panel ? (cols + panel - 1) / panel : 1; }
  std::int64_t blocks() const { return (rows + block - 1) / block; }
  std::int64_t panel_cols(std::int64_t p) const { return p + 1 < panels() ? panel : cols - p * panel; }
  std::int64_t block_rows(std::int64_t b) const { return b + 1 < blocks() ? block : rows - b * block; }
};

enum class Side : std::uint8_t { rows, columns };  // W, or its transpose

class TilePlan {
 public:
  // Decodes the pattern. values null: columns only, for the values gradient; else they are widened too.
  TilePlan(const Executor& executor, const IsaKernels& kernels, const Pattern& pattern, Side side,
           const TileCut& cut, const void* values, DType dtype);

  const TileGrid& grid() const { return grid_; }
  const float* values() const { return values_.data(); }

  // The rows of a block, in a panel.
  PanelRows panel(std::int64_t block, std::int64_t panel) const {
    return {begin_.data() + entry(block, panel), grid_.block_rows(block), index_.data()};
  }
  // Which rows of the block they are. Null: the first, the second, ...
  const std::uint16_t* order(std::int64_t block, std::int64_t panel) const { return order_at(block, panel); }
  // Index in packed order of the first weight of each of those rows (plans without values only).
  const std::uint32_t* packed(std::int64_t block, std::int64_t panel) const {
    return packed_.data() + entry(block, panel);
  }

 private:
  // One more entry than rows: the end of the last.
  std::int64_t entry(std::int64_t block, std::int64_t panel) const {
    return (block * grid_.panels() + panel) * (grid_.block + 1);
  }
  std::uint16_t* order_at(std::int64_t block, std::int64_t panel) const {
    return order_.data() == nullptr ? nullptr : order_.data() + entry(block, panel);
  }
  using Decode = std::uint32_t (*)(const PanelRun& run);
  void decode_block(Decode decode, const Pattern& pattern, std::int64_t block, PanelRun run);
  void transpose_block(Decode transpose, const Pattern& pattern, std::int64_t block, PanelRun run);
  std::uint32_t first_weight(const Pattern& pattern, std::int64_t row, std::int64_t word) const;
  Scratch<std::uint32_t> first_weights(const Executor& executor, const Pattern& pattern, Side side) const;

  // Elements of scratch that a decoding lane needs; `widest` is the largest number of weights of a block.
  struct LaneSizes {
    std::int64_t numbers, decoded;
  };
  LaneSizes lane_sizes(Side side, std::int64_t widest) const;

  TileGrid grid_;
  std::int64_t (*count_bits_)(const std::uint32_t* words, std::int64_t count);
  Scratch<std::uint32_t> begin_, packed_;
  Scratch<std::uint16_t> order_;  // of cuts by length only
  Scratch<std::uint16_t> index_;
  Scratch<float> values_;
};

}  // namespace smet::kernels::cpu
