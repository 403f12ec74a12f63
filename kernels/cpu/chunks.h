// SPDX-License-Identifier: BSD-3-Clause
// How work is cut for threads. Bounds depend on sizes alone, so that results do not depend on who runs what.
#pragma once

#include <algorithm>

#include "kernels/expand.h"

namespace smet::kernels::cpu {

// The segments of a whole mask, numbered row-major as `rank` is, in at most kMaxChunks runs. Pad bits are 0,
// so a run's words are contiguous and its weights are too.
class SegmentChunks {
 public:
  static constexpr std::int64_t kMaxChunks = 128;
  static constexpr std::int64_t kMinSegments = 16;

  SegmentChunks(std::int64_t rows, std::int64_t cols)
      : segments_per_row_(segments_per_row(cols)),
        words_per_row_(words_per_row(cols)),
        segments_(rows * segments_per_row_),
        per_chunk_(std::max(kMinSegments, (segments_ + kMaxChunks - 1) / kMaxChunks)) {}

  std::int64_t count() const { return (segments_ + per_chunk_ - 1) / per_chunk_; }

  // First segment of a chunk; of chunk count(): their number.
  std::int64_t segment(std::int64_t chunk) const { return std::min(chunk * per_chunk_, segments_); }

  // First mask word of a segment; of the segment past the last: the number of words.
  std::int64_t word(std::int64_t segment) const {
    if (segment == segments_) return segments_ == 0 ? 0 : segments_ / segments_per_row_ * words_per_row_;
    return segment / segments_per_row_ * words_per_row_ + segment % segments_per_row_ * kSegmentWords;
  }

  // First weight of a segment in packed order; of the segment past the last: nnz.
  std::int64_t weight(const Pattern& pattern, std::int64_t segment) const {
    return segment == segments_ ? pattern.nnz : pattern.rank[segment];
  }

 private:
  std::int64_t segments_per_row_, words_per_row_, segments_, per_chunk_;
};

// Index of the first weight at or after (row, col) in packed order; col is a multiple of kSegmentColumns, or
// at or beyond the last column.
inline std::int64_t packed_index(const Pattern& pattern, std::int64_t row, std::int64_t col) {
  const std::int64_t segments = segments_per_row(pattern.cols);
  const std::int64_t segment = row * segments + (col >= pattern.cols ? segments : col / kSegmentColumns);
  return segment == pattern.rows * segments ? pattern.nnz : pattern.rank[segment];
}

// Neighbouring columns of one row of a dense tile.
struct RowPart {
  const std::uint32_t* words;  // of the mask
  std::int64_t cols;
  std::int64_t index;  // of the first active weight in packed order
  std::int64_t at;     // of the first element in the tile's memory
};

// A tile cut into blocks of about 64 K positions: whole rows where a row is shorter, else parts of one row
// that begin at segments.
class TileChunks {
 public:
  explicit TileChunks(const Tile& tile)
      : tile_(tile),
        cols_(std::min(tile.col_end - tile.col_begin, kPositions)),
        rows_(cols_ > 0 ? std::max<std::int64_t>(1, kPositions / cols_) : 1),
        col_chunks_(cols_ > 0 ? (tile.col_end - tile.col_begin + cols_ - 1) / cols_ : 0),
        row_chunks_((tile.row_end - tile.row_begin + rows_ - 1) / rows_) {}

  // visit(RowPart) for every row of every block; blocks run in parallel. `stride`: elements from one row of
  // the tile's memory to the next.
  template <typename F>
  void for_rows(const Executor& executor, const Pattern& pattern, std::int64_t stride, F&& visit) const {
    for_chunks(executor, row_chunks_ * col_chunks_, [&](std::int64_t chunk) {
      const Tile block = (*this)[chunk];
      for (std::int64_t row = block.row_begin; row < block.row_end; ++row) {
        visit(RowPart{
            .words = pattern.mask + row * words_per_row(pattern.cols) + block.col_begin / kWordColumns,
            .cols = block.col_end - block.col_begin,
            .index = packed_index(pattern, row, block.col_begin),
            .at = (row - tile_.row_begin) * stride + (block.col_begin - tile_.col_begin)});
      }
    });
  }

 private:
  Tile operator[](std::int64_t chunk) const {
    const std::int64_t row = tile_.row_begin + chunk / col_chunks_ * rows_;
    const std::int64_t col = tile_.col_begin + chunk % col_chunks_ * cols_;
    return {row, std::min(row + rows_, tile_.row_end), col, std::min(col + cols_, tile_.col_end)};
  }

  static constexpr std::int64_t kPositions = 64 * kSegmentColumns;
  Tile tile_;
  std::int64_t cols_, rows_, col_chunks_, row_chunks_;
};

}  // namespace smet::kernels::cpu
