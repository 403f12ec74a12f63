// SPDX-License-Identifier: BSD-3-Clause
// The network and the numbers that C++ and Python train on alike: the Python tests that
// start these programs have the other half.
#pragma once

#include <smet/smet.h>
#include <torch/torch.h>

namespace smet::testing {

inline constexpr int64_t kIn = 40, kHidden = 70, kOut = 33, kBatch = 16;

// Reproducible numbers that both languages compute exactly: small integers over a power of two.
inline torch::Tensor formula(int64_t rows, int64_t cols, int64_t step) {
  const auto i = torch::arange(rows * cols, torch::kLong);
  const auto hash = (i * 7919 + step * 104729 + 12345) * 2654435761 % 4294967296;
  return (hash % 2048).to(torch::kFloat).reshape({rows, cols}) / 1024 - 1;
}

struct Net : torch::nn::Module {
  Net() {
    up = register_module(
        "up", smet::SparseLinear(smet::SparseLinearOptions(kIn, kHidden).density(0.3).seed(5).name("up")));
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kHidden})));
    down = register_module(
        "down", smet::SparseLinear(
                    smet::SparseLinearOptions(kHidden, kOut).density(0.2).bias(false).seed(5).name("down")));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return down->forward(torch::relu(norm->forward(up->forward(x))));
  }
  smet::SparseLinear up{nullptr}, down{nullptr};
  torch::nn::LayerNorm norm{nullptr};
};

}  // namespace smet::testing
