// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/mask_rank.h"

#include <limits>

#include "kernels/philox.h"
#include "kernels/reference/elements.h"

namespace smet::kernels {

bool has_pad_bits(const std::uint32_t* mask, std::int64_t rows, std::int64_t cols) {
  const std::int64_t words = words_per_row(cols);
  if (cols % kWordColumns == 0) return false;
  for (std::int64_t row = 0; row < rows; ++row) {
    if (mask[(row + 1) * words - 1] >> (cols % kWordColumns) != 0) return true;
  }
  return false;
}

namespace reference {

Status mask_rank(const Executor& /*executor*/, const MaskRankArgs& args) {
  std::int64_t active = 0;
  for (std::int64_t row = 0; row < args.rows; ++row) {
    for (std::int64_t col = 0; col < args.cols; ++col) {
      if (col % kSegmentColumns == 0) {
        args.rank[row * segments_per_row(args.cols) + col / kSegmentColumns] =
            static_cast<std::int32_t>(active);
      }
      if (is_active(args.mask, args.cols, row, col)) ++active;
    }
  }
  *args.nnz = active;
  return active > std::numeric_limits<std::int32_t>::max() ? Status::too_many_active : Status::ok;
}

std::uint64_t mask_hash(const Executor& /*executor*/, const MaskHashArgs& args) {
  std::uint64_t sum = 0;
  const std::int64_t words = args.rows * words_per_row(args.cols);
  for (std::int64_t word = 0; word < words; ++word) {
    sum += mix64(mix64(static_cast<std::uint64_t>(word)) ^ args.mask[word]);
  }
  return mix64(mix64(sum + static_cast<std::uint64_t>(args.rows)) + static_cast<std::uint64_t>(args.cols));
}

}  // namespace reference
}  // namespace smet::kernels
