// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/csr_columns.h"

#include "kernels/reference/elements.h"

namespace smet::kernels::reference {

Status csr_columns(const Executor& /*executor*/, const CsrColumnsArgs& args) {
  const Pattern& pattern = args.pattern;
  std::int32_t* next = args.columns;
  for (std::int64_t row = 0; row < pattern.rows; ++row) {
    for (std::int64_t col = 0; col < pattern.cols; ++col) {
      if (is_active(pattern.mask, pattern.cols, row, col)) *next++ = static_cast<std::int32_t>(col);
    }
  }
  return Status::ok;
}

}  // namespace smet::kernels::reference
