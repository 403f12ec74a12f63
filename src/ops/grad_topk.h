// SPDX-License-Identifier: BSD-3-Clause
// grad_topk_ for any device: its arguments, checked.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace smet::ops {

struct GradTopkArguments {
  at::Tensor dy, x;  // [tokens, rows] and [tokens, cols], contiguous, in the dtype that dW is computed in
  const uint32_t* mask;
  int64_t rows, cols;
  int64_t k;
};

// Throws TypeError or ValueError for tensors that do not fit together. That there are k inactive positions is
// left to the caller: only the mask's contents say it.
GradTopkArguments check_grad_topk(const at::Tensor& positions, const at::Tensor& grad_output,
                                  const at::Tensor& input, const at::Tensor& mask);

}  // namespace smet::ops
