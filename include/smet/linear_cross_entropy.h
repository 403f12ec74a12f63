// SPDX-License-Identifier: BSD-3-Clause
// Cross entropy of a linear layer's outputs, without the outputs.
#pragma once

#include <torch/arg.h>
#include <torch/types.h>

#include <cstdint>
#include <string>

namespace smet {

// Options of linear_cross_entropy.
struct LinearCrossEntropyOptions {
  TORCH_ARG(torch::Tensor, linear_bias);       // [classes], or undefined: none
  TORCH_ARG(std::string, reduction) = "mean";  // over targets that are not ignored; "sum"; "none"
  TORCH_ARG(int64_t, ignore_index) = -100;     // of targets that cost nothing
};

// cross_entropy(input linear_weight^T + linear_bias, target), classes visited in slices: beside the
// gradients, max(32 MB, 256 bytes * (tokens + 2 features)) of scratch, whatever the number of classes.
//   input          [..., features], any floating dtype; linear_weight [classes, features] of the same
//   target         [...], int64 classes
//   returns        float32 (float64 for float64): a scalar, or target's shape with "none"
// Backward computes the logits again; there is no second derivative. bf16 and fp16 are multiplied and summed
// in float32 on a CPU. Throws ValueError, TypeError or IndexError naming the argument that does not fit.
torch::Tensor linear_cross_entropy(const torch::Tensor& input, const torch::Tensor& linear_weight,
                                   const torch::Tensor& target,
                                   const LinearCrossEntropyOptions& options = {});

}  // namespace smet
