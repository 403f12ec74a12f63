// SPDX-License-Identifier: BSD-3-Clause
// SparseLinear where torch's own modules stand: each test does the same to a model with torch::nn::Linear.
#include <gtest/gtest.h>
#include <smet/smet.h>
#include <torch/torch.h>

#include <sstream>

namespace {

namespace nn = torch::nn;

nn::Sequential sparse_model() {
  return nn::Sequential(smet::SparseLinear(smet::SparseLinearOptions(12, 40).name("0")), nn::ReLU(),
                        smet::SparseLinear(smet::SparseLinearOptions(40, 3).bias(false).name("2")));
}

nn::Sequential dense_model() {
  return nn::Sequential(nn::Linear(12, 40), nn::ReLU(), nn::Linear(nn::LinearOptions(40, 3).bias(false)));
}

std::vector<std::string> keys(const torch::OrderedDict<std::string, torch::Tensor>& tensors) {
  return tensors.keys();
}

TEST(TorchModule, ParametersAndBuffersByName) {
  nn::Sequential sparse = sparse_model(), dense = dense_model();
  EXPECT_EQ(keys(dense->named_parameters()), (std::vector<std::string>{"0.weight", "0.bias", "2.weight"}));
  EXPECT_EQ(keys(sparse->named_parameters()), (std::vector<std::string>{"0.values", "0.bias", "2.values"}));
  EXPECT_EQ(keys(sparse->named_buffers()),
            (std::vector<std::string>{"0.mask", "0.rank", "2.mask", "2.rank"}));
  EXPECT_EQ(sparse->parameters().size(), dense->parameters().size());
  for (const auto& parameter : sparse->parameters())
    EXPECT_TRUE(parameter.is_leaf() && parameter.requires_grad());
  for (const auto& buffer : sparse->buffers()) EXPECT_FALSE(buffer.requires_grad());
}

TEST(TorchModule, ForwardThroughSequentialAndGradients) {
  nn::Sequential sparse = sparse_model(), dense = dense_model();
  {
    const torch::NoGradGuard no_grad;  // the same weights
    for (const std::size_t i : {0U, 2U}) {
      dense->ptr<nn::LinearImpl>(i)->weight.copy_(sparse->ptr<smet::SparseLinearImpl>(i)->dense_weight());
    }
    dense->ptr<nn::LinearImpl>(0)->bias.copy_(sparse->ptr<smet::SparseLinearImpl>(0)->bias);
  }
  const auto x = torch::randn({5, 12});
  const auto y = sparse->forward(x);
  EXPECT_TRUE(torch::allclose(y, dense->forward(x), 1e-5, 1e-6));
  y.sum().backward();
  dense->forward(x).sum().backward();
  EXPECT_TRUE(torch::allclose(sparse->ptr<smet::SparseLinearImpl>(0)->bias.grad(),
                              dense->ptr<nn::LinearImpl>(0)->bias.grad(), 1e-5, 1e-6));
  sparse->zero_grad();
  for (const auto& parameter : sparse->parameters()) EXPECT_FALSE(parameter.grad().defined());
}

// Flags that a clone has, and its shape.
std::string clone_of(nn::Sequential& model) {
  model->eval();
  model->parameters()[0].requires_grad_(false);
  const auto copy = std::dynamic_pointer_cast<nn::SequentialImpl>(model->clone());
  std::ostringstream text;
  text << copy->size() << copy->is_training() << copy->ptr(0)->is_training();
  for (const auto& parameter : copy->parameters()) text << parameter.requires_grad();
  return text.str();
}

TEST(TorchModule, CloneIsDeepWithTheFlagsOfTorchsOwn) {
  nn::Sequential sparse = sparse_model(), dense = dense_model();
  EXPECT_EQ(clone_of(sparse), clone_of(dense));
  const auto copy = std::dynamic_pointer_cast<nn::SequentialImpl>(sparse->clone());
  const auto x = torch::randn({2, 12});
  EXPECT_TRUE(torch::equal(copy->forward(x), sparse->forward(x)));
  const auto here = sparse->named_parameters(), there = copy->named_parameters();
  EXPECT_EQ(keys(here), keys(there));
  for (const auto& item : here) {
    EXPECT_NE(item.value().data_ptr(), there[item.key()].data_ptr()) << item.key();
  }
}

TEST(TorchModule, ToKeepsIntegersAndParameterIdentity) {
  for (nn::Sequential model : {sparse_model(), dense_model()}) {
    std::vector<const void*> before;
    for (const auto& parameter : model->parameters()) before.push_back(parameter.unsafeGetTensorImpl());
    const auto x = torch::randn({2, 12}, torch::kDouble);
    const auto single = model->forward(x.to(torch::kFloat));
    model->to(torch::kDouble);
    EXPECT_TRUE(torch::allclose(model->forward(x), single.to(torch::kDouble), 1e-5, 1e-6));
    std::size_t i = 0;
    for (const auto& parameter : model->parameters()) {
      EXPECT_EQ(parameter.scalar_type(), torch::kDouble);
      EXPECT_EQ(parameter.unsafeGetTensorImpl(), before[i++]);  // what an optimizer's state is keyed by
    }
    for (const auto& buffer : model->buffers()) EXPECT_EQ(buffer.scalar_type(), torch::kInt);
    model->to(torch::Device(torch::kCPU), torch::kFloat);
    EXPECT_TRUE(torch::allclose(model->forward(x.to(torch::kFloat)), single, 1e-5, 1e-6));
  }
}

TEST(TorchModule, ArchivesOfAWholeModel) {
  for (const bool sparse : {true, false}) {
    nn::Sequential saved = sparse ? sparse_model() : dense_model();
    nn::Sequential loaded = sparse ? sparse_model() : dense_model();
    {
      const torch::NoGradGuard no_grad;
      for (auto& parameter : saved->parameters()) parameter.normal_();
    }
    std::stringstream file;
    torch::save(saved, file);
    torch::load(loaded, file);
    const auto x = torch::randn({2, 12});
    EXPECT_TRUE(torch::equal(saved->forward(x), loaded->forward(x)));
    nn::Sequential other(nn::Linear(12, 40));
    file.seekg(0);
    if (sparse) {
      EXPECT_THROW(torch::load(other, file), c10::Error);
    }
  }
}

TEST(TorchModule, TrainEvalApplyAndText) {
  nn::Sequential model = sparse_model();
  model->eval();
  EXPECT_FALSE(model->ptr<smet::SparseLinearImpl>(0)->is_training());
  int layers = 0;
  model->apply([&](nn::Module& module) { layers += module.as<smet::SparseLinearImpl>() != nullptr ? 1 : 0; });
  EXPECT_EQ(layers, 2);
  std::ostringstream text;
  text << model;
  EXPECT_NE(
      text.str().find("(2): smet::SparseLinear(in_features=40, out_features=3, bias=false, density=0.25)"),
      std::string::npos)
      << text.str();
}

TEST(TorchModule, InferenceNeedsNoGradientAndNoOptimizer) {
  nn::Sequential model = sparse_model();
  model->eval();
  const auto x = torch::randn({2, 12});
  const auto expected = model->forward(x).detach();
  const c10::InferenceMode inference;
  const auto y = model->forward(x);
  EXPECT_FALSE(y.requires_grad());
  EXPECT_TRUE(torch::equal(y, expected));
  const smet::MemoryReport report = smet::report(*model);
  EXPECT_EQ(report.moments + report.gradients + report.cohorts, 0);
}

}  // namespace
