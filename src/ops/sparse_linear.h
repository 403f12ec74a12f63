// SPDX-License-Identifier: BSD-3-Clause
// sparse_linear and its gradients for any device: checks and leading dimensions, over that device's
// algorithms.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "src/ops/algorithm_table.h"

namespace smet::ops {

at::Tensor sparse_linear_with(const AlgorithmTable& table, const at::Tensor& input, const at::Tensor& values,
                              const at::Tensor& mask, const at::Tensor& rank,
                              const std::optional<at::Tensor>& bias, std::string_view algorithm);

at::Tensor sparse_linear_backward_input_with(const AlgorithmTable& table, const at::Tensor& grad_output,
                                             const at::Tensor& values, const at::Tensor& mask,
                                             const at::Tensor& rank, int64_t in_features,
                                             std::string_view algorithm);

at::Tensor sparse_linear_backward_values_with(const AlgorithmTable& table, const at::Tensor& grad_output,
                                              const at::Tensor& input, const at::Tensor& mask,
                                              const at::Tensor& rank, int64_t n, std::string_view algorithm);

std::tuple<at::Tensor, at::Tensor> sparse_linear_backward_with(
    const AlgorithmTable& table, const at::Tensor& grad_output, const at::Tensor& input,
    const at::Tensor& values, const at::Tensor& mask, const at::Tensor& rank, std::string_view algorithm);

}  // namespace smet::ops
