// SPDX-License-Identifier: BSD-3-Clause
// expand_gemm on the device: panels of W are expanded into bounded scratch and handed to torch's matrix
// product, panels of dW are computed there and gathered at once. The products are in the dtype of the
// activations (bf16 and fp16 with fp32 sums), so every element is rounded once, as on the CPU.
#pragma once

#include <functional>

#include "kernels/expand.h"
#include "src/ops/algorithm_table.h"

namespace smet::ops::cuda::expand_gemm {

at::Tensor forward(const SparseProblem& problem, const at::Tensor& x, const at::Tensor& values,
                   const std::optional<at::Tensor>& bias);
Gradients backward(const SparseProblem& problem, const at::Tensor& dy, const at::Tensor& x,
                   const at::Tensor& values, bool want_input, bool want_values);

// body(tile, dw) with dw [tile rows, cols] = dy[:, tile rows]^T x, for panels of whole rows that cover dW.
// dw is valid during the call.
void for_each_gradient_panel(const at::Tensor& dy, const at::Tensor& x,
                             const std::function<void(const kernels::Tile&, const at::Tensor& dw)>& body);

}  // namespace smet::ops::cuda::expand_gemm
