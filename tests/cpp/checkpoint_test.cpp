// SPDX-License-Identifier: BSD-3-Clause
// Options of save_checkpoint and load_checkpoint; tests/python/test_checkpoint_parity.py compares the files.
#include "smet/checkpoint.h"

#include <gtest/gtest.h>
#include <smet/smet.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace {

namespace fs = std::filesystem;

torch::nn::Sequential model(std::uint64_t seed) {
  return torch::nn::Sequential(smet::SparseLinear(smet::SparseLinearOptions(12, 40).seed(seed).name("0")),
                               torch::nn::ReLU(), torch::nn::Linear(40, 3));
}

// A folder that goes away with the test.
class Checkpoint : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(1);
    root_ = fs::temp_directory_path() / ("smet_checkpoint_" + std::to_string(getpid()));
    fs::remove_all(root_);
    net_->forward(torch::randn({4, 12})).sum().backward();
    opt_.step();
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string save(std::int64_t step, bool gradients = false) {
    smet::SaveOptions options;
    options.step = step;
    options.gradients = gradients;
    return smet::save_checkpoint(root_.string(), *net_, &opt_, nullptr, options);
  }

  fs::path root_;
  torch::nn::Sequential net_ = model(1);
  smet::CompactAdamW opt_{net_->parameters(), smet::CompactAdamWOptions(1e-2)};
};

bool same(torch::nn::Sequential& a, torch::nn::Sequential& b) {
  const auto x = torch::ones({2, 12});
  return torch::equal(a->forward(x), b->forward(x));
}

TEST_F(Checkpoint, InferenceReadsNoOptimizerState) {
  const std::string step = save(1);
  fs::remove(fs::path(step) / "optimizer.safetensors");
  torch::nn::Sequential other = model(2);
  other->eval();
  EXPECT_FALSE(same(net_, other));
  EXPECT_EQ(smet::load_checkpoint(root_.string(), *other).step, 1);
  EXPECT_TRUE(same(net_, other));
  smet::CompactAdamW opt(other->parameters(), smet::CompactAdamWOptions(1e-2));
  EXPECT_THROW(smet::load_checkpoint(step, *other, &opt), c10::ValueError);
  EXPECT_THROW(smet::verify_checkpoint(step), c10::ValueError);
}

TEST_F(Checkpoint, LatestIsTheNewestWholeOne) {
  EXPECT_FALSE(smet::latest_checkpoint(root_.string()));
  const std::string first = save(1), second = save(2);
  smet::verify_checkpoint(second);
  EXPECT_EQ(smet::latest_checkpoint(root_.string()), second);
  std::ofstream(second + "/model.safetensors", std::ios::app) << "x";
  EXPECT_EQ(smet::latest_checkpoint(root_.string()), first);
  EXPECT_THROW(smet::verify_checkpoint(second), c10::ValueError);
  fs::remove(fs::path(first) / "run.safetensors");
  EXPECT_THROW(smet::latest_checkpoint(root_.string()), c10::ValueError);
}

TEST_F(Checkpoint, GradientsComeBackOrAreCleared) {
  const auto gradient = net_->parameters()[0].grad().clone();
  const std::string with = save(1, true), without = save(2);
  torch::nn::Sequential other = model(2);
  smet::load_checkpoint(with, *other);
  EXPECT_TRUE(torch::equal(other->parameters()[0].grad(), gradient));
  smet::load_checkpoint(without, *other);
  for (const auto& param : other->parameters()) EXPECT_FALSE(param.grad().defined());
}

TEST_F(Checkpoint, GeneratorsAreRestoredOnRequestAlone) {
  const std::string step = save(1);
  const auto next = torch::rand({3});
  smet::load_checkpoint(step, *net_);
  EXPECT_TRUE(torch::equal(torch::rand({3}), next));
  torch::manual_seed(7);
  const auto own = torch::rand({3});
  torch::manual_seed(7);
  smet::LoadOptions options;
  options.restore_generators = false;
  smet::load_checkpoint(step, *net_, nullptr, nullptr, options);
  EXPECT_TRUE(torch::equal(torch::rand({3}), own));
}

TEST_F(Checkpoint, CheckExtraRefusesBeforeAnythingChanges) {
  const std::string step = save(1);
  torch::nn::Sequential other = model(2);
  const auto before = other->forward(torch::ones({2, 12}));
  smet::LoadOptions options;
  std::string seen;
  options.check_extra = [&](const smet::CheckpointRun& run) {
    seen = run.state;
    throw std::runtime_error("another run");
  };
  EXPECT_THROW(smet::load_checkpoint(step, *other, nullptr, nullptr, options), std::runtime_error);
  EXPECT_NE(seen.find("extra"), std::string::npos);
  EXPECT_TRUE(torch::equal(other->forward(torch::ones({2, 12})), before));
}

}  // namespace
