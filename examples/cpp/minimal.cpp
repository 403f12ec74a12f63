// SPDX-License-Identifier: BSD-3-Clause
// The README's C++ program: a quarter of the weights exists, and they move while training runs.
#include <smet/smet.h>
#include <torch/torch.h>

#include <iostream>

int main() {
  // [readme]
  torch::manual_seed(0);
  auto model = torch::nn::Sequential(smet::SparseLinear(smet::SparseLinearOptions(64, 256).density(0.25)),
                                     torch::nn::ReLU(),
                                     smet::SparseLinear(smet::SparseLinearOptions(256, 64).density(0.25)));
  smet::CompactAdamW opt(model->parameters(), smet::CompactAdamWOptions(2e-3));
  smet::TopologyScheduler topo(*model, opt, smet::TopologyOptions().interval(50).total_steps(300));
  const auto target = torch::randn({64, 64});
  for (int step = 0; step < 300; ++step) {
    const auto x = torch::randn({128, 64});
    auto loss = torch::mse_loss(model->forward(x), x.matmul(target));
    opt.zero_grad();
    loss.backward();
    opt.step();
    topo.step();
    if (step % 50 == 49) std::cout << "step " << step + 1 << "  loss " << loss.item<float>() << "\n";
  }
  // [/readme]
}
