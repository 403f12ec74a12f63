// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/sparse_linear.h"

#include "src/ops/cuda/algorithm_table.h"
#include "src/ops/cuda/operators.h"

namespace smet::ops::cuda {

Tensor sparse_linear(const Tensor& input, const Tensor& values, const Tensor& mask, const Tensor& rank,
                     const OptionalTensor& bias, std::string_view algorithm) {
  return sparse_linear_with(cuda_algorithms(), input, values, mask, rank, bias, algorithm);
}

Tensor sparse_linear_backward_input(const Tensor& grad_output, const Tensor& values, const Tensor& mask,
                                    const Tensor& rank, int64_t in_features, std::string_view algorithm) {
  return sparse_linear_backward_input_with(cuda_algorithms(), grad_output, values, mask, rank, in_features,
                                           algorithm);
}

Tensor sparse_linear_backward_values(const Tensor& grad_output, const Tensor& input, const Tensor& mask,
                                     const Tensor& rank, int64_t n, std::string_view algorithm) {
  return sparse_linear_backward_values_with(cuda_algorithms(), grad_output, input, mask, rank, n, algorithm);
}

std::tuple<Tensor, Tensor> sparse_linear_backward(const Tensor& grad_output, const Tensor& input,
                                                  const Tensor& values, const Tensor& mask,
                                                  const Tensor& rank, std::string_view algorithm) {
  return sparse_linear_backward_with(cuda_algorithms(), grad_output, input, values, mask, rank, algorithm);
}

}  // namespace smet::ops::cuda
