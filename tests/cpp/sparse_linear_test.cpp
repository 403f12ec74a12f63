// SPDX-License-Identifier: BSD-3-Clause
// SparseLinear from C++: initialisation, conversion, clone, dtype, archives, text.
#include "smet/sparse_linear.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sstream>

#include "smet/values_registry.h"

namespace {

smet::SparseLinearOptions options() {
  return smet::SparseLinearOptions(37, 50).density(0.3).seed(4).name("fc");
}

void expect_same(const smet::SparseLinearImpl& a, const smet::SparseLinearImpl& b) {
  EXPECT_TRUE(torch::equal(a.values, b.values));
  EXPECT_TRUE(torch::equal(a.mask, b.mask));
  EXPECT_TRUE(torch::equal(a.rank, b.rank));
  ASSERT_EQ(a.bias.defined(), b.bias.defined());
  if (a.bias.defined()) {
    EXPECT_TRUE(torch::equal(a.bias, b.bias));
  }
}

TEST(SparseLinear, ForwardAndGradientsEqualDense) {
  smet::SparseLinear layer(options().dtype(torch::kDouble));
  EXPECT_EQ(layer->nnz(), 555);
  auto dense = layer->to_dense();
  const auto x = torch::randn({2, 3, 37}, torch::kDouble);
  const auto y = layer->forward(x);
  EXPECT_TRUE(torch::allclose(y, dense->forward(x), 1e-13, 1e-13));
  y.square().sum().backward();
  dense->forward(x).square().sum().backward();
  const auto active = layer->dense_weight().detach() != 0;
  EXPECT_TRUE(torch::allclose(layer->values.grad(), dense->weight.grad().index({active}), 1e-12, 1e-12));
  EXPECT_TRUE(torch::allclose(layer->bias.grad(), dense->bias.grad(), 1e-12, 1e-12));
}

TEST(SparseLinear, SeedAndNameDecideTheStart) {
  expect_same(smet::SparseLinearImpl(options()), smet::SparseLinearImpl(options()));
  EXPECT_FALSE(
      torch::equal(smet::SparseLinearImpl(options()).mask, smet::SparseLinearImpl(options().seed(5)).mask));
}

TEST(SparseLinear, CloneIsEqualIndependentAndRegistered) {
  for (const bool bias : {false, true}) {
    smet::SparseLinear layer(options().bias(bias));
    {
      const torch::NoGradGuard no_grad;
      layer->values.add_(1);
      layer->set_mask(smet::SparseLinearImpl(options().seed(9)).mask);
    }
    const auto copy = std::dynamic_pointer_cast<smet::SparseLinearImpl>(layer->clone());
    ASSERT_TRUE(copy);
    expect_same(*copy, *layer);
    const auto info = smet::values_info(copy->values);
    ASSERT_TRUE(info);
    EXPECT_EQ(info->out_features, 50);
    EXPECT_EQ(info->name, "fc");
    const torch::NoGradGuard no_grad;
    copy->values.zero_();
    EXPECT_GT(layer->values.abs().sum().item<double>(), 0);
  }
}

TEST(SparseLinear, DtypeConversionLeavesPositionsAlone) {
  torch::nn::Sequential model(smet::SparseLinear(options()), torch::nn::Linear(50, 3));
  const smet::SparseLinearImpl before(options());
  model->to(torch::kBFloat16);
  auto& layer = model->at<smet::SparseLinearImpl>(0);
  EXPECT_EQ(layer.values.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(layer.bias.scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(torch::equal(layer.mask, before.mask));
  EXPECT_TRUE(torch::equal(layer.rank, before.rank));
  EXPECT_EQ(model->forward(torch::randn({2, 37}).to(torch::kBFloat16)).scalar_type(), torch::kBFloat16);
  model->to(torch::kCPU, torch::kDouble);
  EXPECT_EQ(layer.mask.scalar_type(), torch::kInt);
  EXPECT_EQ(layer.values.scalar_type(), torch::kDouble);
  EXPECT_TRUE(smet::values_info(layer.values));
  EXPECT_THROW(layer.to(torch::kInt), c10::Error);
}

TEST(SparseLinear, ArchiveRoundTripDerivesRank) {
  smet::SparseLinear first(options()), second(options().seed(11));
  std::stringstream file;
  torch::save(first, file);
  torch::load(second, file);
  expect_same(*first, *second);

  smet::SparseLinear denser(options().density(0.5));
  const auto values = denser->values.detach().clone();
  file.seekg(0);
  EXPECT_THROW(torch::load(denser, file), c10::Error);
  EXPECT_TRUE(torch::equal(denser->values.detach(), values));
}

TEST(SparseLinear, FromDenseTakesTheWeights) {
  torch::nn::Linear dense(37, 50);
  const auto drawn = smet::SparseLinearImpl::from_dense(*dense, options());
  const auto active = drawn->dense_weight().detach() != 0;
  EXPECT_TRUE(torch::equal(drawn->values.detach(), dense->weight.detach().index({active})));
  EXPECT_TRUE(torch::equal(drawn->to_dense()->bias, dense->bias));
  const auto given = smet::SparseLinearImpl::from_dense(*dense, options(), active);
  expect_same(*given, *drawn);
  EXPECT_THROW(smet::SparseLinearImpl::from_dense(*dense, options(), active.t()), c10::Error);
}

TEST(SparseLinear, BadOptionsAndInputsAreErrors) {
  for (const double density : {0.0, -0.1, 1.5, std::nan("")}) {
    EXPECT_THROW(smet::SparseLinearImpl(options().density(density)), c10::Error);
  }
  EXPECT_THROW(smet::SparseLinearImpl(options().dtype(torch::kInt)), c10::Error);
  EXPECT_THROW(smet::SparseLinearImpl(options().init_std(-1.0)), c10::Error);
  smet::SparseLinear layer(options());
  EXPECT_THROW(layer->forward(torch::zeros({2, 36})), c10::Error);
  EXPECT_THROW(layer->set_mask(torch::zeros_like(layer->mask)), c10::Error);
}

TEST(SparseLinear, PrintsItsDensity) {
  std::ostringstream text;
  text << smet::SparseLinear(options());
  EXPECT_EQ(text.str(), "smet::SparseLinear(in_features=37, out_features=50, bias=true, density=0.3)");
}

}  // namespace
