// SPDX-License-Identifier: BSD-3-Clause
// The network of tests/python/test_checkpoint_parity.py: loads a checkpoint, trains some steps, saves.
// Usage: checkpoint_run LOAD|- STEPS SAVE [fp32|bf16|8bit [masters]]; masters: of a bfloat16 network
#include <smet/checkpoint.h>
#include <smet/smet.h>
#include <torch/torch.h>

#include <iostream>

#include "parity_network.h"

namespace {

using namespace smet::testing;

int run(const std::string& from, int64_t steps, const std::string& to, const std::string& moments,
        bool masters) {
  torch::set_num_threads(1);
  torch::manual_seed(3);
  Net net;
  const auto dtype = masters ? torch::kBFloat16 : torch::kFloat;
  net.to(dtype);
  smet::CompactAdamW opt(net.parameters(),
                         smet::CompactAdamWOptions(4e-3).warmup(5).moments(moments).master_weights(masters));
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
    torch::mse_loss(net.forward(formula(kBatch, kIn, save.step).to(dtype)),
                    formula(kBatch, kOut, save.step / 7).to(dtype))
        .backward();
    opt.step();
    topo.step();
  }
  std::cout << smet::save_checkpoint(to, net, &opt, &topo, save) << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argc > 6) {
    std::cerr << "usage: checkpoint_run LOAD|- STEPS SAVE [fp32|bf16|8bit [masters]]\n";
    return 2;
  }
  try {
    return run(argv[1], std::stoll(argv[2]), argv[3], argc > 4 ? argv[4] : "fp32", argc == 6);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
