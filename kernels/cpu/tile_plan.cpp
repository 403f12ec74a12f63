// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cpu/tile_plan.h"

#include <algorithm>

namespace smet::kernels::cpu {
namespace {

std::int64_t round_up(std::int64_t size, std::int64_t unit) {
  return (size + unit - 1) / unit * unit;
}

int storage_of(DType dtype) {
  return static_cast<int>(dtype == DType::f32    ? Storage::f32
                          : dtype == DType::bf16 ? Storage::bf16
                                                 : Storage::f16);
}

TileGrid grid_of(const Pattern& pattern, Side side, const TileCut& cut) {
  const std::int64_t rows = side == Side::rows ? pattern.rows : pattern.cols;
  const std::int64_t cols = side == Side::rows ? pattern.cols : pattern.rows;
  // Blocks of about equal size.
  const std::int64_t blocks = std::max<std::int64_t>(1, (rows + cut.block - 1) / cut.block);
  return {rows, cols, std::min(cut.panel, std::max(round_up(cols, kWordColumns), kWordColumns)),
          std::max(round_up((rows + blocks - 1) / blocks, kWordColumns), kWordColumns)};
}

}  // namespace

// Index in packed order of the first weight at or after (row, 32 word).
std::uint32_t TilePlan::first_weight(const Pattern& pattern, std::int64_t row, std::int64_t word) const {
  if (pattern.cols == 0 || row == pattern.rows) return static_cast<std::uint32_t>(pattern.nnz);
  const std::int64_t segment = word / kSegmentWords;
  const std::int64_t begin = segment * kSegmentWords;
  const std::uint32_t* const words = pattern.mask + row * words_per_row(pattern.cols);
  const std::int64_t before = word > begin ? count_bits_(words + begin, word - begin) : 0;
  return static_cast<std::uint32_t>(pattern.rank[row * segments_per_row(pattern.cols) + segment] + before);
}

// Weights before each block, and in all.
Scratch<std::uint32_t> TilePlan::first_weights(const Executor& executor, const Pattern& pattern,
                                               Side side) const {
  const std::int64_t blocks = grid_.blocks();
  Scratch<std::uint32_t> first(blocks + 1);
  if (side == Side::rows) {
    for (std::int64_t block = 0; block <= blocks; ++block) {
      first.data()[block] = first_weight(pattern, std::min(block * grid_.block, grid_.rows), 0);
    }
    return first;
  }
  const std::int64_t stride = words_per_row(pattern.cols);
  for_chunks(executor, blocks, [&](std::int64_t block) {
    const std::int64_t begin = block * grid_.block / kWordColumns;
    const std::int64_t count = std::min(grid_.block / kWordColumns, stride - begin);
    std::int64_t bits = 0;
    for (std::int64_t row = 0; row < pattern.rows; ++row) {
      bits += count_bits_(pattern.mask + row * stride + begin, count);
    }
    first.data()[block + 1] = static_cast<std::uint32_t>(bits);
  });
  first.data()[0] = 0;
  for (std::int64_t block = 0; block < blocks; ++block) first.data()[block + 1] += first.data()[block];
  return first;
}

TilePlan::TilePlan(const Executor& executor, const IsaKernels& kernels, const Pattern& pattern, Side side,
                   const TileCut& cut, const void* values, DType dtype)
    : grid_(grid_of(pattern, side, cut)), count_bits_(kernels.mask->count_bits) {
  const std::int64_t blocks = grid_.blocks();
  const std::int64_t entries = blocks * grid_.panels() * (grid_.block + 1);
  begin_ = Scratch<std::uint32_t>(entries);
  if (values == nullptr) packed_ = Scratch<std::uint32_t>(entries);
  if (cut.by_length) order_ = Scratch<std::uint16_t>(entries);
  // Slack between blocks: decoding writes beyond the last weight.
  const Scratch<std::uint32_t> first = first_weights(executor, pattern, side);
  const std::int64_t size = pattern.nnz + (blocks + 1) * kDecodeSlack;
  index_ = Scratch<std::uint16_t>(size);
  if (values != nullptr) values_ = Scratch<float>(size);
  const int storage = storage_of(dtype);
  std::int64_t widest = 0;
  for (std::int64_t block = 0; block < blocks; ++block) {
    widest = std::max<std::int64_t>(widest, first.data()[block + 1] - first.data()[block]);
  }
  const std::int64_t lanes = lane_count(executor, blocks);
  const LaneSizes sizes = lane_sizes(side, widest);
  const Scratch<std::uint32_t> numbers(lanes * sizes.numbers);
  const Scratch<std::uint16_t> decoded(lanes * sizes.decoded);
  for_units(executor, blocks, [&](std::int64_t lane, std::int64_t block) {
    PanelRun run{};
    run.words_per_row = words_per_row(pattern.cols);
    run.values = values;
    run.nnz = pattern.nnz;
    run.index = index_.data();
    run.out = values_.data();
    run.first = first.data()[block] + static_cast<std::uint32_t>(block * kDecodeSlack);
    run.cursor = numbers.data() + lane * sizes.numbers;
    if (side == Side::rows) {
      decode_block(kernels.tile_decode->decode[storage], pattern, block, run);
    } else {
      run.decoded = decoded.data() + lane * sizes.decoded;
      transpose_block(kernels.tile_decode->transpose[storage], pattern, block, run);
    }
  });
}

TilePlan::LaneSizes TilePlan::lane_sizes(Side side, std::int64_t widest) const {
  if (side == Side::rows) return {2 * grid_.block, 0};
  return {2 * std::min(grid_.panel, grid_.cols) + grid_.block, widest + kDecodeSlack};
}

// Rows [block], panel after panel; a row's cursor moves on from one to the next.
void TilePlan::decode_block(Decode decode, const Pattern& pattern, std::int64_t block, PanelRun run) {
  const std::int64_t row = block * grid_.block;
  run.rows = grid_.block_rows(block);
  run.lengths = run.cursor + grid_.block;
  for (std::int64_t r = 0; r < run.rows; ++r) {
    run.cursor[r] = first_weight(pattern, row + r, 0);
  }
  for (std::int64_t panel = 0; panel < grid_.panels(); ++panel) {
    run.words = pattern.mask + row * run.words_per_row + panel * grid_.panel / kWordColumns;
    run.cols = grid_.panel_cols(panel);
    run.begin = begin_.data() + entry(block, panel);
    run.order = order_at(block, panel);
    if (run.values == nullptr) {
      std::copy(run.cursor, run.cursor + run.rows, packed_.data() + entry(block, panel));
    }
    run.first = decode(run);
  }
}

// Columns [block] of W, panel of rows after panel.
void TilePlan::transpose_block(Decode transpose, const Pattern& pattern, std::int64_t block, PanelRun run) {
  const std::int64_t word = block * grid_.block / kWordColumns;
  const std::int64_t panel_rows = std::min(grid_.panel, grid_.cols);
  run.cols = grid_.block_rows(block);
  run.counts = run.cursor + panel_rows;
  run.lengths = run.counts + panel_rows;
  for (std::int64_t panel = 0; panel < grid_.panels(); ++panel) {
    const std::int64_t row = panel * grid_.panel;
    run.rows = grid_.panel_cols(panel);
    run.words = pattern.mask + row * run.words_per_row + word;
    run.begin = begin_.data() + entry(block, panel);
    run.order = order_at(block, panel);
    for (std::int64_t r = 0; r < run.rows; ++r) run.cursor[r] = first_weight(pattern, row + r, word);
    run.first = transpose(run);
  }
}

}  // namespace smet::kernels::cpu
