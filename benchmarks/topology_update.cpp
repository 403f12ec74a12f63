// SPDX-License-Identifier: BSD-3-Clause
// The topology update and its parts on one layer of 5000 x 8000, d = .25 (1e7 active weights), 20 % replaced,
// fp32, in ns per active weight of the fastest
// round. Goals: select <= 4, whole update <= 20.
//   OMP_NUM_THREADS=2 build/benchmarks/bench_topology_update
#include "kernels/topology_update.h"

#include <benchmark/benchmark.h>

#include <array>

#include "benchmarks/bench.h"
#include "kernels/grad_topk.h"

namespace smet::bench {
namespace {

using kernels::DType;

// One layer before and after an update, and everything that is stored per weight.
struct Update {
  Layer old{5000, 8000, .25};
  Layer next = old;
  std::int64_t k = old.nnz / 5;
  std::vector<float> values = normal_numbers(old.nnz, .02F, 3);
  std::vector<float> moved = values;  // apart from the scores, which an update would change
  std::vector<float> scratch = values;
  std::vector<std::uint8_t> cohort = std::vector<std::uint8_t>(values.size(), 7);
  std::vector<std::uint32_t> keep = old.mask;
  std::vector<std::uint32_t> chosen = old.mask;

  Update() {
    select();
    draw();
    merge();
  }
  void select() {
    std::int64_t nan = 0;
    kernels::cpu::select_keep(executor(), {old.pattern(), values.data(), DType::f32,
                                           kernels::ScoreOrder::magnitude, k, keep.data(), &nan});
  }
  void draw() {
    kernels::cpu::draw_positions(executor(),
                                 {old.mask.data(), old.rows, old.cols, old.rows * old.cols - old.nnz, k, 1,
                                  kernels::DrawStream::grow, ++updates, chosen.data()});
  }
  void merge() {
    for (std::size_t word = 0; word < keep.size(); ++word) next.mask[word] = keep[word] | chosen[word];
    next.derive();
  }
  void relayout() {
    const float zero = 0;
    kernels::cpu::relayout(executor(),
                           {old.pattern(), next.pattern(), moved.data(), 4, &zero, scratch.data()});
  }
  void relayout_cohort() {
    std::array<std::int64_t, 256> died;
    kernels::cpu::relayout_cohort(executor(), {old.pattern(), next.pattern(), cohort.data(), 9, died.data(),
                                               reinterpret_cast<std::uint8_t*>(scratch.data())});
  }
  void all() {
    select();
    draw();
    merge();
    for (int array = 0; array < 3; ++array) relayout();  // values and both moments
    relayout_cohort();
  }
  void hash() {
    benchmark::DoNotOptimize(kernels::cpu::mask_hash(executor(), {old.mask.data(), old.rows, old.cols}));
  }

  std::uint32_t updates = 0;
};

template <void (Update::*part)()>
void run(benchmark::State& state) {
  static Update update;
  double fastest = 1e9;
  for (auto _ : state) time_fastest([&] { (update.*part)(); }, fastest);
  state.counters["ns/weight"] = fastest / static_cast<double>(update.old.nnz) * 1e9;
}

// Gradient growth: the whole dW streamed in tiles of 256 rows, in ns per dense position.
void grad_topk(benchmark::State& state) {
  const Layer layer(5000, 8000, .25);
  const std::vector<float> grad = normal_numbers(256 * layer.cols, 1e-3F, 5);
  double fastest = 1e9;
  const auto stream = [&] {
    kernels::GradTopk topk;
    topk.k = layer.nnz / state.range(0);
    for (std::int64_t row = 0; row < layer.rows; row += 256) {
      const kernels::Tile tile = {row, std::min(row + 256, layer.rows), 0, layer.cols};
      kernels::cpu::grad_topk_tile(
          executor(), {layer.mask.data(), layer.rows, layer.cols, tile, grad.data(), DType::f32, layer.cols},
          topk);
    }
    benchmark::DoNotOptimize(kernels::cpu::grad_topk_finish(executor(), topk));
  };
  for (auto _ : state) time_fastest(stream, fastest);
  state.counters["ns/position"] = fastest / static_cast<double>(layer.rows * layer.cols) * 1e9;
}

BENCHMARK(run<&Update::select>)->Name("select_keep")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(run<&Update::draw>)->Name("draw_positions")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(run<&Update::merge>)->Name("merge and rank")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(run<&Update::relayout>)
    ->Name("relayout, one fp32 array")
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(run<&Update::relayout_cohort>)
    ->Name("relayout_cohort")
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(run<&Update::all>)->Name("whole update")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(run<&Update::hash>)->Name("mask_hash")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(grad_topk)->ArgName("one in")->Arg(5)->Arg(50)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace smet::bench

BENCHMARK_MAIN();
