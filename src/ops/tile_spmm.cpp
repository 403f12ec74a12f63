// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/tile_spmm.h"

#include <ATen/ops/empty.h>

#include "kernels/sparse_linear.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops::tile_spmm {

namespace {

// Of one product: its weights decoded, and packing both sides.
int64_t operations(const SparseProblem& problem, int64_t tokens) {
  const auto& pattern = problem.pattern;
  return pattern.nnz * (tokens + 8) + 4 * tokens * (pattern.rows + pattern.cols);
}

}  // namespace

bool applies(const SparseProblem& problem) {
  return problem.dtype != at::kDouble;
}

at::Tensor forward(const SparseProblem& problem, const at::Tensor& x, const at::Tensor& values,
                   const std::optional<at::Tensor>& bias) {
  at::Tensor y = at::empty({x.size(0), problem.pattern.rows}, x.options());
  const at::Tensor contiguous_bias = bias ? bias->contiguous() : at::Tensor();
  check_status(kernels::cpu::sparse_linear(executor(operations(problem, x.size(0))),
                                           {.pattern = problem.pattern,
                                            .tokens = x.size(0),
                                            .dtype = dtype_tag(problem.dtype, "input"),
                                            .x = x.const_data_ptr(),
                                            .x_stride = x.stride(0),
                                            .values = values.const_data_ptr(),
                                            .bias = bias ? contiguous_bias.const_data_ptr() : nullptr,
                                            .y = y.mutable_data_ptr(),
                                            .y_stride = y.stride(0)}),
               "sparse_linear");
  return y;
}

Gradients backward(const SparseProblem& problem, const at::Tensor& dy, const at::Tensor& x,
                   const at::Tensor& values, bool want_input, bool want_values) {
  Gradients grads;
  if (want_input) grads.input = at::empty({dy.size(0), problem.pattern.cols}, dy.options());
  if (want_values) grads.values = at::empty({problem.pattern.nnz}, dy.options());
  check_status(kernels::cpu::sparse_linear_backward(
                   executor(2 * operations(problem, dy.size(0))),
                   {.pattern = problem.pattern,
                    .tokens = dy.size(0),
                    .dtype = dtype_tag(problem.dtype, "grad_output"),
                    .dy = dy.const_data_ptr(),
                    .dy_stride = dy.stride(0),
                    .x = want_values ? x.const_data_ptr() : nullptr,
                    .x_stride = want_values ? x.stride(0) : 0,
                    .values = want_input ? values.const_data_ptr() : nullptr,
                    .dx = want_input ? grads.input.mutable_data_ptr() : nullptr,
                    .dx_stride = problem.pattern.cols,
                    .dvalues = want_values ? grads.values.mutable_data_ptr() : nullptr}),
               "sparse_linear_backward");
  return grads;
}

}  // namespace smet::ops::tile_spmm
