// SPDX-License-Identifier: BSD-3-Clause
// tile_spmm: the CPU kernels of kernels/sparse_linear.h as a row of the algorithm table. Nothing dense
// exists.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "src/ops/algorithm_table.h"

namespace smet::ops::tile_spmm {

bool applies(const SparseProblem& problem);

at::Tensor forward(const SparseProblem& problem, const at::Tensor& x, const at::Tensor& values,
                   const std::optional<at::Tensor>& bias);
Gradients backward(const SparseProblem& problem, const at::Tensor& dy, const at::Tensor& x,
                   const at::Tensor& values, bool want_input, bool want_values);

}  // namespace smet::ops::tile_spmm
