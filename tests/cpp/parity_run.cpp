// SPDX-License-Identifier: BSD-3-Clause
// Trains the network of tests/python/test_parity.py from C++ and writes every tensor of it as raw bytes, so
// that Python can compare them with its own: 300 steps, 6 topology updates. Usage: parity_run OUTPUT
#include <smet/smet.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>

namespace {

constexpr int64_t kIn = 40, kHidden = 70, kOut = 33, kBatch = 16, kSteps = 300;

// Reproducible numbers that both languages compute exactly: small integers over a power of two.
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
