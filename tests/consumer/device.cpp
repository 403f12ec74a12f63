// SPDX-License-Identifier: BSD-3-Clause
// Trains a sparse layer on a GPU with the installed package. Exit code 0: it learnt; 3: there is no GPU, or
// the package is built without CUDA, and the error that a user gets is printed; 1: anything else.
#include <smet/smet.h>
#include <torch/torch.h>

#include <exception>
#include <iostream>

namespace {

double train(const torch::Device& device) {
  torch::manual_seed(0);
  auto layer =
      smet::SparseLinear(smet::SparseLinearOptions(64, 64).density(0.25).device(device).name("layer"));
  smet::CompactAdamW opt(layer->parameters(), smet::CompactAdamWOptions(2e-3));
  smet::TopologyScheduler topo(*layer, opt, smet::TopologyOptions().interval(20).total_steps(100));
  const auto target = torch::randn({64, 64}, device);
  double first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    const auto x = torch::randn({128, 64}, device);
    auto loss = torch::mse_loss(layer->forward(x), x.matmul(target));
    opt.zero_grad();
    loss.backward();
    opt.step();
    topo.step();
    last = loss.item<double>();
    if (step == 0) first = last;
  }
  return last / first;
}

}  // namespace

int main() {
  const double on_cpu = train(torch::kCPU);
  std::cout << "cpu: the loss fell to " << on_cpu << " of what it was\n";
  try {
    const double on_gpu = train(torch::kCUDA);
    std::cout << "cuda: the loss fell to " << on_gpu << " of what it was\n";
    return on_cpu < 1 && on_gpu < 1 ? 0 : 1;
  } catch (const c10::Error& error) {
    std::cout << "cuda: " << error.what_without_backtrace() << "\n";
    return on_cpu < 1 ? 3 : 1;
  } catch (const std::exception& error) {
    std::cout << "cuda: " << error.what() << "\n";
    return 1;
  }
}
