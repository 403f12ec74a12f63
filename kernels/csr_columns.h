// SPDX-License-Identifier: BSD-3-Clause
// csr_columns: the column of every active weight, for libraries that want compressed sparse rows. The row
// offsets need no kernel: row r begins at rank[r, 0].
#pragma once

#include "kernels/types.h"

namespace smet::kernels {

// columns[i] = column of weight i, for every i in [0, nnz).
struct CsrColumnsArgs {
  Pattern pattern;
  std::int32_t* columns;  // [nnz]
};

namespace reference {
Status csr_columns(const Executor& executor, const CsrColumnsArgs& args);
}
namespace cuda {
Status csr_columns(Stream stream, const CsrColumnsArgs& args);
}

}  // namespace smet::kernels
