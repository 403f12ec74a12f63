// SPDX-License-Identifier: BSD-3-Clause
// Trains the network of tests/python/test_parity.py from C++ and writes every tensor of it as raw bytes, so
// that Python can compare them with its own: 300 steps, 6 topology updates. Usage: parity_run OUTPUT
#include <smet/smet.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>

#include "parity_network.h"

namespace {

using namespace smet::testing;

constexpr int64_t kSteps = 300;

void write(std::ofstream& file, const std::string& name, const torch::Tensor& tensor) {
  const auto data = tensor.detach().contiguous();
  const int64_t bytes = data.numel() * data.element_size();
  file << name << " " << bytes << "\n";
  file.write(static_cast<const char*>(data.data_ptr()), bytes);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: parity_run OUTPUT\n";
    return 2;
  }
  torch::set_num_threads(1);
  Net net;
  smet::CompactAdamW opt(net.parameters(), smet::CompactAdamWOptions(4e-3).weight_decay(0.01).warmup(50));
  smet::TopologyScheduler topo(
      net, opt, smet::TopologyOptions().interval(50).fraction(0.3).stop(1.0).total_steps(kSteps + 1).seed(9));
  for (int64_t step = 0; step < kSteps; ++step) {
    opt.zero_grad();
    auto loss = torch::mse_loss(net.forward(formula(kBatch, kIn, step)), formula(kBatch, kOut, step / 7));
    loss.backward();
    opt.step();
    topo.step();
  }
  std::ofstream file(argv[1], std::ios::binary);
  for (const auto& item : net.named_parameters()) {
    write(file, item.key(), item.value());
    const auto& state = opt.state_of(item.value());
    write(file, item.key() + ".exp_avg", state.exp_avg());
    write(file, item.key() + ".exp_avg_sq", state.exp_avg_sq());
    if (state.cohort().defined()) {
      write(file, item.key() + ".cohort", state.cohort());
      write(file, item.key() + ".births", state.births());
    }
  }
  for (const auto& item : net.named_buffers()) write(file, item.key(), item.value());
  std::cout << "updates " << topo.updates() << "\n";
}
