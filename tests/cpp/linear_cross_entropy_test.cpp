// SPDX-License-Identifier: BSD-3-Clause
// The C++ front end; tests/python/test_linear_cross_entropy.py tests the operator.
#include "smet/linear_cross_entropy.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace smet {
namespace {

using torch::Tensor;
namespace F = torch::nn::functional;

TEST(LinearCrossEntropy, EqualsTorch) {
  torch::manual_seed(0);
  const auto options = torch::dtype(torch::kDouble).requires_grad(true);
  const Tensor x = torch::randn({3, 5, 8}, options);
  const Tensor w = torch::randn({40, 8}, options);
  const Tensor bias = torch::randn({40}, options);
  const Tensor target = torch::randint(40, {3, 5});
  target[0][1] = 7;
  const Tensor logits = F::linear(x, w, bias).flatten(0, 1);
  const auto theirs = [&](const auto& reduction) {
    const auto with = F::CrossEntropyFuncOptions().ignore_index(7).reduction(reduction);
    return F::cross_entropy(logits, target.flatten(), with);
  };
  const auto ours = [&](const char* reduction) {
    const auto with = LinearCrossEntropyOptions().linear_bias(bias).ignore_index(7).reduction(reduction);
    return linear_cross_entropy(x, w, target, with);
  };
  EXPECT_TRUE(torch::allclose(ours("none"), theirs(torch::kNone).view({3, 5}), 1e-13, 1e-13));
  EXPECT_TRUE(torch::allclose(ours("sum"), theirs(torch::kSum), 1e-13, 1e-13));
  const Tensor mean = ours("mean");
  const Tensor expected = theirs(torch::kMean);
  EXPECT_TRUE(torch::allclose(mean, expected, 1e-13, 1e-13));
  const auto grads = torch::autograd::grad({mean}, {x, w, bias});
  const auto others = torch::autograd::grad({expected}, {x, w, bias});
  for (size_t i = 0; i < grads.size(); ++i) EXPECT_TRUE(torch::allclose(grads[i], others[i], 1e-12, 1e-13));
}

TEST(LinearCrossEntropy, BadArgumentsAreRefused) {
  const Tensor x = torch::ones({2, 8});
  const Tensor w = torch::ones({4, 8});
  EXPECT_THROW(linear_cross_entropy(x, w, torch::zeros({3}, torch::kLong)), c10::ValueError);
  EXPECT_THROW(linear_cross_entropy(x, w, torch::full({2}, 4)), c10::IndexError);
  EXPECT_THROW(linear_cross_entropy(x, w, torch::zeros({2}, torch::kLong),
                                    LinearCrossEntropyOptions().reduction("max")),
               c10::ValueError);
}

}  // namespace
}  // namespace smet
