// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/gather.h"

#include "kernels/reference/elements.h"

namespace smet::kernels::reference {
namespace {

// The sum is rounded once in the compute type, then once in the storage type (`store`).
double sum(DType dtype, double a, double b) {
  if (dtype == DType::f64) return a + b;
  return static_cast<double>(static_cast<float>(a) + static_cast<float>(b));
}

}  // namespace

Status gather(const Executor& /*executor*/, const GatherArgs& args) {
  const Pattern& pattern = args.pattern;
  const Tile& tile = args.tile;
  if (!convertible(args.out_dtype, args.dense_dtype)) return Status::unsupported_dtype;
  if (tile.col_begin >= tile.col_end) return Status::ok;
  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    std::int64_t index =
        pattern.rank[row * segments_per_row(pattern.cols) + tile.col_begin / kSegmentColumns];
    for (std::int64_t col = tile.col_begin; col < tile.col_end; ++col) {
      if (!is_active(pattern.mask, pattern.cols, row, col)) continue;
      const std::int64_t at = (row - tile.row_begin) * args.stride + (col - tile.col_begin);
      if (args.accumulate) {
        const double old = load(args.out, args.out_dtype, index);
        const double value = load(args.dense, args.dense_dtype, at);
        store(args.out, args.out_dtype, index++, sum(args.out_dtype, old, value));
      } else {
        move(args.dense, args.dense_dtype, at, args.out, args.out_dtype, index++);
      }
    }
  }
  return Status::ok;
}

}  // namespace smet::kernels::reference
