// SPDX-License-Identifier: BSD-3-Clause
// One compact AdamW step on 1e7 weights against torch's fused AdamW on as many, interleaved call by call in
// one process: ns per weight of the fastest round of each, and their ratio (below 1: ours is faster).
//   OMP_NUM_THREADS=2 build/benchmarks/bench_adamw_step
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/add.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>

#include "benchmarks/bench.h"
#include "kernels/adamw_compact.h"

namespace smet::bench {
namespace {

constexpr std::int64_t kSize = 10'000'000;

struct Parameter {
  at::Tensor param, grad, exp_avg, exp_avg_sq;

  explicit Parameter(at::ScalarType dtype)
      : param(at::randn({kSize}, dtype).mul_(.02)),
        grad(at::randn({kSize}, dtype).mul_(1e-3)),
        exp_avg(at::zeros({kSize}, at::kFloat)),
        exp_avg_sq(at::zeros({kSize}, at::kFloat)) {}
};

// torch keeps bf16 moments for bf16 parameters and moves 10 bytes a weight where we move 18.
struct Fused {
  Parameter p;
  at::Tensor step = at::zeros({}, at::kFloat);

  explicit Fused(at::ScalarType dtype) : p(dtype) {
    p.exp_avg = p.exp_avg.to(dtype);
    p.exp_avg_sq = p.exp_avg_sq.to(dtype);
  }
  void operator()() {
    step.add_(1);
    at::_fused_adamw_({p.param}, {p.grad}, {p.exp_avg}, {p.exp_avg_sq}, {}, {step}, 1e-3, .9, .999, .01, 1e-8,
                      false, false);
  }
};

// `young` per cent of the weights carry one of 255 other cohort ids, scattered; 0: all are mature.
struct Compact {
  Parameter p;
  std::vector<std::uint8_t> cohort = std::vector<std::uint8_t>(kSize);
  std::vector<kernels::CohortRow> rows;
  kernels::DType dtype;

  Compact(at::ScalarType type, std::int64_t young)
      : p(type), dtype(type == at::kBFloat16 ? kernels::DType::bf16 : kernels::DType::f32) {
    for (int id = 0; id < 256; ++id) rows.push_back({1e-5, 1e-3, std::sqrt(1 - std::pow(.999, id + 1))});
    for (std::size_t i = 0; i < cohort.size(); ++i) {
      const std::uint64_t bits = kernels::mix64(i + 1);
      if (static_cast<std::int64_t>(bits % 100) < young) cohort[i] = static_cast<std::uint8_t>(bits >> 32);
    }
  }
  kernels::AdamWTensor tensor() {
    return {p.param.data_ptr(),
            p.grad.data_ptr(),
            p.exp_avg.data_ptr(),
            p.exp_avg_sq.data_ptr(),
            cohort.data(),
            kSize,
            dtype,
            dtype,
            rows.data(),
            256,
            .9,
            .999,
            1e-8,
            0,
            false,
            false,
            0};
  }
  void operator()() {
    const kernels::AdamWTensor one = tensor();
    kernels::cpu::adamw_step(executor(), {&one, 1});
  }
};

// The same weights with 8-bit moments, as those of a layer of 4,096 input features at density .25.
struct Block8 {
  Compact c;
  Layer layer{9750, 4096, .25};  // not quite kSize weights
  std::vector<float> scale, scale_sq;
  std::uint64_t key = 1;

  Block8(at::ScalarType type, std::int64_t young) : c(type, young) {
    for (at::Tensor* codes : {&c.p.exp_avg, &c.p.exp_avg_sq}) *codes = at::zeros({kSize}, at::kByte);
    scale.resize(static_cast<std::size_t>(moments().blocks()));
    scale_sq.resize(scale.size());
  }
  kernels::CompactMoments moments() {
    return {kernels::MomentFormat::block8,
            key,
            layer.rank.data(),
            layer.rows,
            layer.cols,
            kernels::block8_segments(layer.rows, layer.cols, layer.nnz),
            scale.data(),
            scale_sq.data()};
  }
  void operator()() {
    ++key;
    kernels::AdamWTensor one = c.tensor();
    one.size = layer.nnz;
    const kernels::CompactMoments its = moments();
    if (kernels::cpu::adamw_compact(executor(), {&one, &its, 1}) != kernels::Status::ok) std::abort();
  }
};

void adamw_step(benchmark::State& state, at::ScalarType dtype) {
  Fused fused(dtype);
  Compact compact(dtype, state.range(0));
  double ours = 1e9;
  double torch = 1e9;
  for (auto _ : state) {
    time_fastest(fused, torch);
    time_fastest(compact, ours);
  }
  state.counters["ns/weight"] = ours / kSize * 1e9;
  state.counters["torch fused ns/weight"] = torch / kSize * 1e9;
  state.counters["x torch fused"] = ours / torch;
  state.counters["threads"] = at::get_num_threads();
}

void block8_step(benchmark::State& state, at::ScalarType dtype) {
  Compact full(dtype, state.range(0));
  Block8 block8(dtype, state.range(0));
  double ours = 1e9;
  double fp32 = 1e9;
  for (auto _ : state) {
    time_fastest(full, fp32);
    time_fastest(block8, ours);
  }
  ours /= static_cast<double>(block8.layer.nnz);
  fp32 /= kSize;
  state.counters["ns/weight"] = ours * 1e9;
  state.counters["fp32 moments ns/weight"] = fp32 * 1e9;
  state.counters["x fp32 moments"] = ours / fp32;
  state.counters["threads"] = at::get_num_threads();
}

BENCHMARK_CAPTURE(adamw_step, f32, at::kFloat)
    ->ArgName("% young")
    ->Arg(0)
    ->Arg(2)
    ->Arg(100)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(40);
BENCHMARK_CAPTURE(adamw_step, bf16, at::kBFloat16)
    ->ArgName("% young")
    ->Arg(0)
    ->Arg(100)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(40);

BENCHMARK_CAPTURE(block8_step, f32, at::kFloat)
    ->ArgName("% young")
    ->Arg(0)
    ->Arg(2)
    ->Arg(100)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(40);
BENCHMARK_CAPTURE(block8_step, bf16, at::kBFloat16)
    ->ArgName("% young")
    ->Arg(0)
    ->Arg(100)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(40);

}  // namespace
}  // namespace smet::bench

BENCHMARK_MAIN();
