// SPDX-License-Identifier: BSD-3-Clause
#include "smet/sparsify.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <sstream>

#include "smet/compact_adamw.h"

namespace {

struct Block : torch::nn::Module {
  explicit Block(const std::string& name) {
    up = register_module("up", layer(96, 1024, name + ".up"));
    down = register_module("down", layer(1024, 96, name + ".down"));
  }
  static smet::SparseLinear layer(std::int64_t in, std::int64_t out, const std::string& name) {
    return smet::SparseLinear(smet::SparseLinearOptions(in, out).density(0.25).name(name));
  }
  smet::SparseLinear up{nullptr}, down{nullptr};
};

struct Net : torch::nn::Module {
  Net() {
    embed = register_module("embed", torch::nn::Linear(8, 96));
    block = register_module("block", std::make_shared<Block>("block"));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return embed->forward(x) + block->down->forward(torch::relu(block->up->forward(embed->forward(x))));
  }
  torch::nn::Linear embed{nullptr};
  std::shared_ptr<Block> block;
};

void train_one_step(Net& net, torch::optim::Optimizer& optimizer) {
  net.forward(torch::ones({2, 8})).square().sum().backward();
  optimizer.step();
}

TEST(Sparsify, LayersByNameInOrder) {
  Net net;
  const auto layers = smet::sparse_layers(net);
  ASSERT_EQ(layers.size(), 2U);
  EXPECT_EQ(layers[0].first, "block.up");
  EXPECT_EQ(layers[1].first, "block.down");
  EXPECT_EQ(layers[1].second.get(), net.block->down.get());
  EXPECT_EQ(smet::sparse_layers(*net.block->up).front().first, "");
}

// P1: measured bytes are the formula's within 2 %, and exactly what the tensors hold.
TEST(Report, BytesByKind) {
  Net net;
  smet::CompactAdamW optimizer(net.parameters(), smet::CompactAdamWOptions(1e-3));
  train_one_step(net, optimizer);
  const smet::MemoryReport report = smet::report(net, &optimizer);
  const std::int64_t positions = 2 * 96 * 1024, n = positions / 4, dense = 8 * 96 + 96 + 1024 + 96;
  EXPECT_EQ(report.weights, 4 * n);
  EXPECT_EQ(report.gradients, 4 * n);
  EXPECT_EQ(report.moments, 8 * n);
  EXPECT_EQ(report.cohorts, n);
  EXPECT_EQ(report.index, 4 * (1024 * (3 + 1) + 96 * (32 + 1)));
  EXPECT_EQ(report.dense_weights, 4 * dense);
  EXPECT_EQ(report.dense_gradients, 4 * dense);
  EXPECT_EQ(report.dense_moments, 8 * dense);
  EXPECT_EQ(report.other, 2 * 256 * 8);
  EXPECT_EQ(report.sparse_dense_adamw, 16 * positions);
  EXPECT_EQ(report.dense_adamw, 16 * (positions + dense));
  EXPECT_NEAR(report.formula / static_cast<double>(positions), 17 * 0.25 + 0.129, 1e-3);
  EXPECT_LT(std::abs(report.deviation()), 0.02);
  EXPECT_LT(report.ratio(), 0.30);
  std::ostringstream text;
  text << report;
  EXPECT_NE(text.str().find("dense 3.18 MB -> "), std::string::npos) << text.str();
}

// P1 for 8-bit moments: a code each, and two scales for the 256 weights of a row.
TEST(Report, CountsScales) {
  torch::nn::Sequential net(
      smet::SparseLinear(smet::SparseLinearOptions(1024, 96).bias(false).density(0.25)));
  smet::CompactAdamW optimizer(net->parameters(), smet::CompactAdamWOptions(1e-3).moments("8bit"));
  const smet::MemoryReport report = smet::report(*net, &optimizer);
  const std::int64_t n = 96 * 1024 / 4;
  EXPECT_EQ(report.moments, 2 * n + 2 * 4 * 96);
  EXPECT_LT(std::abs(report.deviation()), 0.02);
}

TEST(Report, CountsWhatIsAlive) {
  Net net;
  const smet::MemoryReport bare = smet::report(net);
  EXPECT_EQ(bare.gradients + bare.moments + bare.cohorts + bare.other + bare.dense_gradients, 0);
  EXPECT_LT(std::abs(bare.deviation()), 0.02);
  torch::optim::AdamW optimizer(net.parameters(), torch::optim::AdamWOptions(1e-3));
  train_one_step(net, optimizer);
  const smet::MemoryReport torch_adamw = smet::report(net, &optimizer);
  EXPECT_EQ(torch_adamw.moments, 2 * torch_adamw.weights);
  EXPECT_EQ(torch_adamw.cohorts, 0);
  optimizer.zero_grad();
  EXPECT_EQ(smet::report(net, &optimizer).gradients, 0);
}

TEST(Distribute, CountsBecomeDensities) {
  const std::vector<std::array<std::int64_t, 2>> shapes{{96, 1024}, {33, 40}, {7, 1030}};
  const auto counts = smet::distribute(shapes, 0.3, "erk");
  std::int64_t total = 0, positions = 0;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto [out, in] = shapes[i];
    const double density = static_cast<double>(counts[i]) / static_cast<double>(out * in);
    EXPECT_EQ(smet::SparseLinear(smet::SparseLinearOptions(in, out).density(density))->nnz(), counts[i]);
    total += counts[i];
    positions += out * in;
  }
  EXPECT_EQ(total, std::llround(0.3 * static_cast<double>(positions)));
}

}  // namespace
