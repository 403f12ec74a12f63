// SPDX-License-Identifier: BSD-3-Clause
// Trains the parity network with a topology update after every step, and prints how many bytes were allocated
// after a tenth of the updates and at the end: tests/python/test_memory_safety.py and scripts/sanitize.sh.
// Usage: updates_run UPDATES
#include <malloc.h>
#include <smet/smet.h>
#include <torch/torch.h>

#include <cstdlib>
#include <iostream>

#include "parity_network.h"
#if defined(__SANITIZE_ADDRESS__)
extern "C" std::size_t __sanitizer_get_current_allocated_bytes();  // g++ comes without the header
#endif

namespace {

using namespace smet::testing;

std::size_t allocated_bytes() {
#if defined(__SANITIZE_ADDRESS__)
  return __sanitizer_get_current_allocated_bytes();
#else
  return mallinfo2().uordblks;
#endif
}

// Growth by gradient, or drawn; what is allocated after a tenth of the updates and after all.
std::pair<std::size_t, std::size_t> train(const std::string& grow, int64_t updates) {
  Net net;
  smet::CompactAdamW opt(net.parameters(), smet::CompactAdamWOptions(4e-3).warmup(50));
  smet::TopologyScheduler topo(net, opt,
                               smet::TopologyOptions()
                                   .interval(1)
                                   .fraction(0.3)
                                   .fraction_schedule("constant")
                                   .stop(1.0)
                                   .total_steps(updates + 1)
                                   .grow(grow));
  std::size_t early = 0;
  for (int64_t step = 0; step < updates; ++step) {
    opt.zero_grad();
    torch::mse_loss(net.forward(formula(kBatch, kIn, step)), formula(kBatch, kOut, step / 7)).backward();
    opt.step();
    topo.step();
    if (step == updates / 10) early = allocated_bytes();
  }
  TORCH_CHECK(topo.updates() == updates, "there were ", topo.updates(), " updates");
  for (const smet::SparseLinear& layer : {net.up, net.down}) {
    TORCH_CHECK(layer->values.isfinite().all().item<bool>(), "a value is not finite");
  }
  return {early, allocated_bytes()};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: updates_run UPDATES\n";
    return 2;
  }
  torch::set_num_threads(1);
  for (const std::string grow : {"random", "gradient"}) {
    const auto [early, late] = train(grow, std::atoll(argv[1]) / 2);
    std::cout << grow << " " << early << " " << late << "\n";
  }
}
