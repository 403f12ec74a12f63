// SPDX-License-Identifier: BSD-3-Clause
// cusparse: NVIDIA's sparse products as a row of the algorithm table, for very low densities. Nothing dense
// exists; it needs int32 indices (csr_indices.h).
#pragma once

#include "src/ops/algorithm_table.h"

namespace smet::ops::cuda::cusparse {

// y^T = W x^T by SpMM, in fp32 sums for fp32, bf16 and fp16.
at::Tensor forward(const SparseProblem& problem, const at::Tensor& x, const at::Tensor& values,
                   const std::optional<at::Tensor>& bias);

// dx^T = W^T dy^T by SpMM with the indices of W^T: cuSPARSE's own transposition adds in another order at
// every run. dvalues by SDDMM, which does not know bf16: TypeError.
Gradients backward(const SparseProblem& problem, const at::Tensor& dy, const at::Tensor& x,
                   const at::Tensor& values, bool want_input, bool want_values);

}  // namespace smet::ops::cuda::cusparse
