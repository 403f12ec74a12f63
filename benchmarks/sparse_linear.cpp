// SPDX-License-Identifier: BSD-3-Clause
// SparseLinear against torch::nn::Linear, forward + backward, interleaved in one process: every iteration
// runs both, so that a change of the machine's speed meets both. Time is the sparse layer's; counters give
// the dense layer's and the ratio of the minima and of the medians. One row per algorithm of the table.
//   build/benchmarks/bench_sparse_linear [--benchmark_filter=2048x768]
#include "smet/sparse_linear.h"

#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "src/ops/algorithm_table.h"

namespace {

double seconds_of(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void compare(benchmark::State& state, int64_t out, int64_t in, double density, int64_t tokens,
             const std::string& algorithm) {
  smet::SparseLinear sparse(
      smet::SparseLinearOptions(in, out).density(density).bias(false).algorithm(algorithm));
  torch::nn::Linear dense(torch::nn::LinearOptions(in, out).bias(false));
  auto x = torch::randn({tokens, in}).requires_grad_();
  const auto dy = torch::randn({tokens, out});
  const auto train = [&](auto& layer) {
    layer->zero_grad();
    x.mutable_grad() = torch::Tensor();
    layer->forward(x).backward(dy);
  };
  train(sparse);
  train(dense);
  std::vector<double> ours, theirs;
  for (auto _ : state) {
    ours.push_back(seconds_of([&] { train(sparse); }));
    theirs.push_back(seconds_of([&] { train(dense); }));
    state.SetIterationTime(ours.back());
  }
  std::sort(ours.begin(), ours.end());
  std::sort(theirs.begin(), theirs.end());
  state.counters["dense_ms"] = theirs.front() * 1e3;
  state.counters["ratio_min"] = ours.front() / theirs.front();
  state.counters["ratio_median"] = ours[ours.size() / 2] / theirs[theirs.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int64_t kShapes[][2] = {{2048, 768},  {768, 2048},  {768, 768},
                                    {2736, 1024}, {2048, 2048}, {5461, 2048}};
  for (const smet::ops::Algorithm& row : smet::ops::algorithm_table(c10::DeviceType::CPU)) {
    for (const auto& [out, in] : kShapes) {
      const std::string name =
          std::string(row.name) + "/" + std::to_string(out) + "x" + std::to_string(in) + "/d:0.25/T:512";
      benchmark::RegisterBenchmark(name.c_str(), compare, out, in, 0.25, 512, row.name)
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond)
          ->Iterations(20);
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("torch threads", std::to_string(at::get_num_threads()));
  benchmark::RunSpecifiedBenchmarks();
}
