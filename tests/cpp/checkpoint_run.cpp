// SPDX-License-Identifier: BSD-3-Clause
// The network of tests/python/test_checkpoint_parity.py: loads a checkpoint, trains some steps, saves.
// Usage: checkpoint_run LOAD|- STEPS SAVE [fp32|bf16|8bit]
#include <smet/checkpoint.h>
#include <smet/smet.h>
#include <torch/torch.h>

#include <iostream>

#include "parity_network.h"

namespace {

using namespace smet::testing;

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
    for (const auto& param : net.parameters()) save.gradients = save.gradients || param.grad().defined();
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
    std::cerr << "usage: checkpoint_run LOAD|- STEPS SAVE [fp32|bf16|8bit]\n";
    return 2;
  }
  try {
    return run(argv[1], std::stoll(argv[2]), argv[3], argc == 5 ? argv[4] : "fp32");
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
