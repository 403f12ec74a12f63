// SPDX-License-Identifier: BSD-3-Clause
// gather: a dense tile -> packed order. Inverse of expand; takes the gradient of the values out of a tile of
// dW.
#pragma once

#include "kernels/expand.h"

namespace smet::kernels {

// out[index of (r, c)] = dense[r - row_begin][c - col_begin]  (accumulate: +=) for every active (r, c) of the
// tile; other elements of out are not touched. dense_dtype is out_dtype, or f32 when out is bf16 or f16
// (rounded to nearest even once, after the fp32 sum when accumulating).
struct GatherArgs {
  Pattern pattern;
  Tile tile;
  const void* dense;
  DType dense_dtype;
  std::int64_t stride;  // elements between rows of dense
  void* out;            // [nnz]
  DType out_dtype;
  bool accumulate;
};

namespace reference {
Status gather(const Executor& executor, const GatherArgs& args);
}
namespace cpu {
Status gather(const Executor& executor, const GatherArgs& args);
}
namespace cuda {
Status gather(Stream stream, const GatherArgs& args);
}

}  // namespace smet::kernels
