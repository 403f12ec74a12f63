// SPDX-License-Identifier: BSD-3-Clause
// The sparse layer without a matrix product: y = x W^T + b and its gradients, straight from packed values.
#pragma once

#include "kernels/types.h"

namespace smet::kernels {

// y [tokens, rows] = x [tokens, cols] W^T + bias. Features are contiguous; tokens are `stride` elements
// apart. All buffers have one dtype: f32, or bf16 or f16 as storage of fp32 arithmetic (each y is rounded
// once).
struct SparseLinearArgs {
  Pattern pattern;
  std::int64_t tokens;
  DType dtype;
  const void* x;
  std::int64_t x_stride;
  const void* values;  // [nnz]
  const void* bias;    // [rows], or null
  void* y;
  std::int64_t y_stride;
};

// dx [tokens, cols] = dy [tokens, rows] W            unless dx is null (then values is not read)
// dvalues [nnz]     = (dy^T x) at active positions   unless dvalues is null (then x is not read)
struct SparseLinearBackwardArgs {
  Pattern pattern;
  std::int64_t tokens;
  DType dtype;
  const void* dy;
  std::int64_t dy_stride;
  const void* x;
  std::int64_t x_stride;
  const void* values;
  void* dx;
  std::int64_t dx_stride;
  void* dvalues;
};

// Sums in double; f64 too.
namespace reference {
Status sparse_linear(const Executor& executor, const SparseLinearArgs& args);
Status sparse_linear_backward(const Executor& executor, const SparseLinearBackwardArgs& args);
}  // namespace reference

// The algorithm tile_spmm: tokens are the vector dimension (kernels/cpu/tile_plan.h). fp32 sums whose order
// depends on the pattern, the number of tokens and the instruction set, never on threads (nor do the bits,
// but for the sign and payload of a NaN); dx may not share memory with x or dy. An element differs from the
// exact sum by at most n eps sum |a b|, n being its number of products. f64 is unsupported_dtype.
namespace cpu {
Status sparse_linear(const Executor& executor, const SparseLinearArgs& args);
Status sparse_linear_backward(const Executor& executor, const SparseLinearBackwardArgs& args);
}  // namespace cpu

}  // namespace smet::kernels
