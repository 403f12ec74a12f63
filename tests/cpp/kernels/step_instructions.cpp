// SPDX-License-Identifier: BSD-3-Clause
// The kernels of one training step, once, for callgrind to count (tests/python/test_step_instructions.py):
// everything between two calls of `measured` is left out. Usage: step_instructions
// forward|backward|adamw|topology
#include <cstdio>
#include <string_view>

#include "kernels/adamw_step.h"
#include "kernels/sparse_linear.h"
#include "kernels/topology_update.h"
#include "tests/cpp/numbers.h"

namespace smet::test {
namespace {

constexpr std::int64_t kTokens = 256;

// A layer of 768 x 2048 at density .25, its activations and its optimizer state.
struct Step {
  Topology topology = make_topology({"layer", 768, 2048, .25});
  Pattern pattern = topology.pattern();
  kernels::Executor executor = serial();
  Bytes x = normal_numbers(DType::f32, kTokens* topology.cols, 1);
  Bytes values = normal_numbers(DType::f32, topology.nnz, 2);
  Bytes y = normal_numbers(DType::f32, kTokens* topology.rows, 3);
  Bytes dx = numbers(DType::f32, kTokens* topology.cols);
  Bytes grad = normal_numbers(DType::f32, topology.nnz, 4, 1e-3);
  Bytes exp_avg = numbers(DType::f32, topology.nnz);
  Bytes exp_avg_sq = numbers(DType::f32, topology.nnz);
  Buffer<std::uint8_t> cohort{topology.nnz};
  Buffer<std::uint32_t> keep{topology.mask.size()};
  Buffer<std::uint32_t> chosen{topology.mask.size()};

  Status forward() {
    return kernels::cpu::sparse_linear(executor, {pattern, kTokens, DType::f32, x.data(), topology.cols,
                                                  values.data(), nullptr, y.data(), topology.rows});
  }
  Status backward() {
    return kernels::cpu::sparse_linear_backward(
        executor, {pattern, kTokens, DType::f32, y.data(), topology.rows, x.data(), topology.cols,
                   values.data(), dx.data(), topology.cols, grad.data()});
  }
  Status adamw() {
    const kernels::CohortRow row = {1e-5, 1e-3, .5};
    kernels::AdamWTensor tensor{};
    tensor.param = values.data();
    tensor.grad = grad.data();
    tensor.exp_avg = exp_avg.data();
    tensor.exp_avg_sq = exp_avg_sq.data();
    tensor.cohort = cohort.data();
    tensor.size = topology.nnz;
    tensor.cohorts = &row;
    tensor.cohort_rows = 1;
    tensor.beta1 = .9;
    tensor.beta2 = .999;
    tensor.eps = 1e-8;
    return kernels::cpu::adamw_step(executor, {&tensor, 1});
  }
  Status update() {
    const std::int64_t k = topology.nnz / 5;
    std::int64_t nan_count = 0;
    const Status status = kernels::cpu::select_keep(
        executor,
        {pattern, values.data(), DType::f32, kernels::ScoreOrder::magnitude, k, keep.data(), &nan_count});
    if (status != Status::ok) return status;
    const std::int64_t inactive = topology.rows * topology.cols - topology.nnz;
    return kernels::cpu::draw_positions(executor, {pattern.mask, topology.rows, topology.cols, inactive, k, 7,
                                                   kernels::DrawStream::grow, 1, chosen.data()});
  }
};

}  // namespace
}  // namespace smet::test

// callgrind counts inside this function alone (--toggle-collect=measured).
extern "C" __attribute__((noinline)) int measured(smet::test::Step* step, std::string_view part) {
  using smet::test::Status;
  Status status = Status::invalid_argument;
  if (part == "forward") status = step->forward();
  if (part == "backward") status = step->backward();
  if (part == "adamw") status = step->adamw();
  if (part == "topology") status = step->update();
  return status == Status::ok ? 0 : 1;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: step_instructions forward|backward|adamw|topology\n");
    return 2;
  }
  smet::test::Step step;
  return measured(&step, argv[1]);
}
