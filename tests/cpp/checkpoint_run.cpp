// SPDX-License-Identifier: BSD-3-Clause
// The network of tests/python/test_checkpoint_parity.py: loads a checkpoint, trains some steps, saves.
// Usage: checkpoint_run LOAD|- STEPS SAVE [fp32|bf16]
#include <smet/checkpoint.h>
#include <smet/smet.h>
#include <torch/torch.h>

#include <iostream>

namespace {

constexpr int64_t kIn = 40, kHidden = 70, kOut = 33, kBatch = 16;

torch::Tensor formula(int64_t rows, int64_t cols, int64_t step) {
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

int run(const std::string& from, int64_t steps, const std::string& to, const std::string& moments) {
  torch::set_num_threads(1);
  torch::manual_seed(3);
  Net net;
  smet::CompactAdamW opt(net.parameters(), smet::CompactAdamWOptions(4e-3).warmup(5).moments(moments));
  smet::TopologyScheduler topo(
      net, opt,
      smet::TopologyOptions().interval(5).fraction(0.3).stop(1.0).total_steps(40).seed(9).track_explored(
          true));
  smet::SaveOptions save;
  if (from != "-") {
    const smet::Checkpoint found = smet::load_checkpoint(from, net, &opt, &topo);
    save.step = found.step;
    save.run = found.run;
  }
  for (const int64_t end = save.step + steps; save.step < end; ++save.step) {
    opt.zero_grad();
    torch::mse_loss(net.forward(formula(kBatch, kIn, save.step)), formula(kBatch, kOut, save.step / 7))
        .backward();
    opt.step();
    topo.step();
  }
  std::cout << smet::save_checkpoint(to, net, &opt, &topo, save) << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::cerr << "usage: checkpoint_run LOAD|- STEPS SAVE [fp32|bf16]\n";
    return 2;
  }
  try {
    return run(argv[1], std::stoll(argv[2]), argv[3], argc == 5 ? argv[4] : "fp32");
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
