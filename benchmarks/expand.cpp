// SPDX-License-Identifier: BSD-3-Clause
// expand and gather of one row panel, fp32, in ns per dense position. The panel stays in the cache, as it
// does between expand and the matrix product.
//   OMP_NUM_THREADS=1 build/benchmarks/bench_expand
#include "kernels/expand.h"

#include <benchmark/benchmark.h>

#include "benchmarks/bench.h"
#include "kernels/gather.h"

namespace smet::bench {
namespace {

constexpr std::int64_t kRows = 256;
constexpr std::int64_t kCols = 2048;

template <typename F>
void measure(benchmark::State& state, F&& step) {
  double fastest = 1e9;
  for (auto _ : state) time_fastest(step, fastest);
  state.counters["ns/position"] = fastest / (kRows * kCols) * 1e9;
}

void expand_panel(benchmark::State& state) {
  const Layer layer(kRows, kCols, static_cast<double>(state.range(0)) / 100);
  const std::vector<float> values = normal_numbers(layer.nnz, 1, 2);
  std::vector<float> dense(kRows * kCols);
  measure(state, [&] {
    kernels::cpu::expand(executor(), {layer.pattern(),
                                      {0, kRows, 0, kCols},
                                      values.data(),
                                      kernels::DType::f32,
                                      dense.data(),
                                      kernels::DType::f32,
                                      kCols});
  });
}

void gather_panel(benchmark::State& state) {
  const Layer layer(kRows, kCols, static_cast<double>(state.range(0)) / 100);
  const std::vector<float> dense = normal_numbers(kRows * kCols, 1, 2);
  std::vector<float> out(static_cast<std::size_t>(layer.nnz));
  measure(state, [&] {
    kernels::cpu::gather(executor(), {layer.pattern(),
                                      {0, kRows, 0, kCols},
                                      dense.data(),
                                      kernels::DType::f32,
                                      kCols,
                                      out.data(),
                                      kernels::DType::f32,
                                      state.range(1) != 0});
  });
}

BENCHMARK(expand_panel)->ArgName("percent")->Arg(50)->Arg(25)->Arg(10)->Arg(1)->UseRealTime();
BENCHMARK(gather_panel)
    ->ArgNames({"percent", "accumulate"})
    ->ArgsProduct({{50, 25, 10, 1}, {0, 1}})
    ->UseRealTime();

}  // namespace
}  // namespace smet::bench

BENCHMARK_MAIN();
