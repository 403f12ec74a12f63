// SPDX-License-Identifier: BSD-3-Clause
// A step that is captured once and replayed: as many steps of their own, with ages, learning rates, rounding
// keys and skipped steps as the host would have them.
#include "kernels/adamw_compact.h"
#include "kernels/cohort_table.h"
#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

using kernels::AdamWTensor;
using kernels::CohortRow;
using kernels::CohortTable;
using kernels::CompactMoments;
using kernels::StepKeys;
using kernels::cuda::StepControl;

constexpr std::int64_t kIds = 256;
constexpr std::int64_t kSize = 1021;
constexpr int kSteps = 9;
constexpr int kUpdate = 4;  // after so many steps weights are regrown
constexpr int kSkipped = 6;

template <typename T>
Buffer<T> one(T value) {
  Buffer<T> buffer(1);
  buffer[0] = value;
  return buffer;
}
float rate_at(int step) {
  return 1e-2F / static_cast<float>(1 + step);
}

Buffer<std::int64_t> births_at(int step) {
  Buffer<std::int64_t> births(kIds);
  std::fill(births.begin(), births.end(), -1);
  births[0] = 0;
  if (step >= kUpdate) births[7] = kUpdate;
  return births;
}
Buffer<std::uint8_t> cohort_at(int step) {
  Buffer<std::uint8_t> cohort(kSize);
  for (std::int64_t i = 0; i < kSize; i += 5) cohort[i] = step >= kUpdate ? 7 : 0;
  return cohort;
}

// A parameter with everything that a step reads and writes, in device memory.
struct Parameter {
  DType dtype;
  bool sparse, bf16_moments;
  OnDevice<unsigned char> param, grad, exp_avg, exp_avg_sq;
  OnDevice<std::uint8_t> cohort;
  OnDevice<std::int64_t> births, step;
  OnDevice<CohortRow> rows;
  OnDevice<StepKeys> keys;

  Parameter(DType dtype_, bool sparse_, bool bf16)
      : dtype(dtype_),
        sparse(sparse_),
        bf16_moments(bf16),
        param(normal_numbers(dtype_, kSize, 3, .02)),
        grad(normal_numbers(dtype_, kSize, 4, 1e-3)),
        exp_avg(Bytes(kSize * (bf16 ? 2 : 4))),
        exp_avg_sq(Bytes(kSize * (bf16 ? 2 : 4))),
        cohort(cohort_at(0)),
        births(births_at(0)),
        step(one<std::int64_t>(0)),
        rows(sparse_ ? kIds : 1),
        keys(1) {}

  AdamWTensor tensor() {
    AdamWTensor tensor{};
    tensor.param = param.data();
    tensor.grad = grad.data();
    tensor.exp_avg = exp_avg.data();
    tensor.exp_avg_sq = exp_avg_sq.data();
    tensor.cohort = sparse ? cohort.data() : nullptr;
    tensor.size = kSize;
    tensor.param_dtype = tensor.grad_dtype = dtype;
    tensor.cohorts = rows.data();
    tensor.cohort_rows = sparse ? kIds : 1;
    tensor.beta1 = .9;
    tensor.beta2 = .999;
    tensor.eps = 1e-8;
    tensor.stochastic_rounding = dtype == DType::bf16;
    return tensor;
  }
  CohortTable clock(std::int64_t index) const {
    CohortTable table{};
    table.lr_dtype = DType::f32;
    table.lr_scale = 2;
    table.weight_decay = .1;
    table.ages = {.beta1 = .9, .beta2 = .999, .warmup = 3, .boost = 2, .boost_tau = 5, .local_age = true};
    table.seed = 11;
    table.index = index;
    return table;
  }
};

std::vector<std::unique_ptr<Parameter>> network() {
  std::vector<std::unique_ptr<Parameter>> all;
  all.push_back(std::make_unique<Parameter>(DType::f32, true, false));
  all.push_back(std::make_unique<Parameter>(DType::bf16, true, true));
  all.push_back(std::make_unique<Parameter>(DType::bf16, false, false));
  return all;
}

// The launches of a step over tensors whose tables and keys are ready.
void launch_step(const std::vector<std::unique_ptr<Parameter>>& net, const std::vector<AdamWTensor>& tensors,
                 std::uint64_t moment_key, const StepControl& control) {
  std::vector<AdamWTensor> full, compact;
  std::vector<CompactMoments> moments;
  for (std::size_t i = 0; i < net.size(); ++i) {
    (net[i]->bf16_moments ? compact : full).push_back(tensors[i]);
    if (net[i]->bf16_moments)
      moments.push_back({kernels::MomentFormat::bf16, moment_key, nullptr, 0, 0, 0, nullptr, nullptr});
  }
  ASSERT_EQ(kernels::cuda::adamw_step(stream(), {full.data(), std::ssize(full)}, control), Status::ok);
  ASSERT_EQ(
      kernels::cuda::adamw_compact(stream(), {compact.data(), moments.data(), std::ssize(compact)}, control),
      Status::ok);
}

void regrow(const std::vector<std::unique_ptr<Parameter>>& net) {
  for (const auto& p : net) {
    p->births.write(births_at(kUpdate));
    p->cohort.write(cohort_at(kUpdate));
  }
}

// Step after step, each with a table of the host's and keys by value.
std::vector<std::unique_ptr<Parameter>> ordinary() {
  std::vector<std::unique_ptr<Parameter>> net = network();
  std::int64_t done = 0;
  for (int step = 0; step < kSteps; ++step) {
    if (step == kUpdate) regrow(net);
    if (step == kSkipped) continue;
    std::vector<AdamWTensor> tensors;
    std::uint64_t moment_key = 0;
    for (std::size_t i = 0; i < net.size(); ++i) {
      Parameter& p = *net[i];
      Buffer<std::int64_t> births = births_at(step);
      Buffer<CohortRow> rows(p.sparse ? kIds : 1);
      StepKeys keys{};
      CohortTable table = p.clock(static_cast<std::int64_t>(i));
      table.step = &done;
      table.births = p.sparse ? births.data() : nullptr;
      table.lr_value = static_cast<double>(rate_at(step));
      table.rows = rows.data();
      table.keys = &keys;
#ifdef SMET_TEST_ON_GPU  // the device's own pow and exp
      p.step.write(one(done));
      p.births.write(births);
      table.step = p.step.data();
      table.births = p.sparse ? p.births.data() : nullptr;
      table.rows = p.rows.data();
      table.keys = p.keys.data();
      EXPECT_EQ(kernels::cuda::cohort_table(stream(), {&table, 1}), Status::ok);
      wait();
      keys = p.keys.read()[0];
#else
      EXPECT_EQ(kernels::reference::cohort_table(serial(), {&table, 1}), Status::ok);
      p.rows.write(rows);
#endif
      tensors.push_back(p.tensor());
      tensors.back().rounding_key = keys.rounding;
      if (p.bf16_moments) moment_key = keys.moments;
    }
    launch_step(net, tensors, moment_key, {});
    ++done;
  }
  for (const auto& p : net) p->step.write(one(done));
  return net;
}

// Captured once, then replayed.
std::vector<std::unique_ptr<Parameter>> captured() {
  std::vector<std::unique_ptr<Parameter>> net = network();
  OnDevice<float> lr(one(rate_at(0)));
  OnDevice<float> found_inf(one(0.0F));
  std::vector<AdamWTensor> tensors;
  std::vector<CohortTable> tables;
  std::vector<std::int64_t*> counters;
  for (std::size_t i = 0; i < net.size(); ++i) {
    Parameter& p = *net[i];
    tensors.push_back(p.tensor());
    tensors.back().device_keys = p.keys.data();
    tables.push_back(p.clock(static_cast<std::int64_t>(i)));
    tables.back().step = p.step.data();
    tables.back().births = p.sparse ? p.births.data() : nullptr;
    tables.back().lr = lr.data();
    tables.back().rows = p.rows.data();
    tables.back().keys = p.keys.data();
    counters.push_back(p.step.data());
  }
  const Captured graph([&] {
    ASSERT_EQ(kernels::cuda::cohort_table(stream(), {tables.data(), std::ssize(tables)}), Status::ok);
    launch_step(net, tensors, 0, {found_inf.data(), nullptr});
    ASSERT_EQ(kernels::cuda::count_steps(stream(), {counters.data(), std::ssize(counters), found_inf.data()}),
              Status::ok);
  });
  tables.clear();  // a replay needs nothing of the host's
  tensors.clear();
  counters.clear();
  for (int step = 1; step < kSteps; ++step) {
    if (step == kUpdate) regrow(net);
    lr.write(one(rate_at(step)));
    found_inf.write(one(step == kSkipped ? 1.0F : 0.0F));
    graph.replay();
  }
  return net;
}

TEST(CapturedStep, EveryReplayIsAStepOfItsOwn) {
  for_each_schedule([] {
    const auto want = ordinary();
    const auto got = captured();
    for (std::size_t i = 0; i < want.size(); ++i) {
      SCOPED_TRACE(i);
      EXPECT_EQ(got[i]->step.read()[0], kSteps - 1);
      EXPECT_TRUE(same_bytes(got[i]->param.read(), want[i]->param.read()));
      EXPECT_TRUE(same_bytes(got[i]->exp_avg.read(), want[i]->exp_avg.read()));
      EXPECT_TRUE(same_bytes(got[i]->exp_avg_sq.read(), want[i]->exp_avg_sq.read()));
    }
  });
}

}  // namespace
}  // namespace smet::test
