// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/expand.h"

#include "kernels/reference/elements.h"

namespace smet::kernels::reference {

Status expand(const Executor& /*executor*/, const ExpandArgs& args) {
  const Pattern& pattern = args.pattern;
  const Tile& tile = args.tile;
  if (!convertible(args.values_dtype, args.dense_dtype)) return Status::unsupported_dtype;
  if (tile.col_begin >= tile.col_end) return Status::ok;
  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    std::int64_t index =
        pattern.rank[row * segments_per_row(pattern.cols) + tile.col_begin / kSegmentColumns];
    for (std::int64_t col = tile.col_begin; col < tile.col_end; ++col) {
      const std::int64_t at = (row - tile.row_begin) * args.stride + (col - tile.col_begin);
      if (is_active(pattern.mask, pattern.cols, row, col)) {
        move(args.values, args.values_dtype, index++, args.dense, args.dense_dtype, at);
      } else {
        store(args.dense, args.dense_dtype, at, 0);
      }
    }
  }
  return Status::ok;
}

}  // namespace smet::kernels::reference
