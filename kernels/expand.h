// SPDX-License-Identifier: BSD-3-Clause
// expand: packed values -> a dense tile. The first half of the `expand_gemm` algorithm.
#pragma once

#include "kernels/types.h"

namespace smet::kernels {

// A tile of the dense matrix: rows [row_begin, row_end), columns [col_begin, col_end).
// col_begin is a multiple of kSegmentColumns; col_end is one too, or the number of columns.
struct Tile {
  std::int64_t row_begin, row_end, col_begin, col_end;
};

// dense[r - row_begin][c - col_begin] = values[index of (r, c)] where active, else 0; rows `stride` elements
// apart. Every element of the tile is written; elements between its last column and `stride` are not touched.
// dense_dtype is values_dtype, or f32 when values are bf16 or f16 (exact widening).
struct ExpandArgs {
  Pattern pattern;
  Tile tile;
  const void* values;  // [nnz]
  DType values_dtype;
  void* dense;
  DType dense_dtype;
  std::int64_t stride;
};

namespace reference {
Status expand(const Executor& executor, const ExpandArgs& args);
}
namespace cpu {
Status expand(const Executor& executor, const ExpandArgs& args);
}
namespace cuda {
Status expand(Stream stream, const ExpandArgs& args);
}

}  // namespace smet::kernels
