// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cohort_table.h"

#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

using kernels::CohortRow;
using kernels::CohortTable;
using kernels::StepKeys;

constexpr std::int64_t kIds = 256;

// On a GPU pow and exp differ from the host's by few units in the last place of a double.
#ifdef SMET_TEST_ON_GPU
constexpr double kUnits = 16;
#else
constexpr double kUnits = 0;
#endif

// One parameter's clock on the host.
struct Clock {
  CohortTable options{};
  std::int64_t step = 0;
  Buffer<std::int64_t> births;
  Buffer<CohortRow> rows;
  StepKeys keys{};

  Clock(std::int64_t updates, bool dense, std::uint64_t seed)
      : step(updates), births(dense ? 0 : kIds), rows(dense ? 1 : kIds) {
    Random random(seed);
    for (std::int64_t& birth : births) {
      birth = random.uniform() < .3 ? -1 : static_cast<std::int64_t>(random.below(100'000)) % (updates + 1);
    }
    if (!dense) births[0] = 0;
    options.lr_value = 2e-3;
    options.lr_scale = dense ? 1 : 3;
    options.weight_decay = .1;
    options.ages = {
        .beta1 = .9, .beta2 = .999, .warmup = 100, .boost = 1, .boost_tau = 50, .local_age = true};
    options.seed = seed;
    options.index = static_cast<std::int64_t>(seed % 7);
  }
};

std::vector<Clock> clocks() {
  std::vector<Clock> all;
  std::uint64_t seed = 1;
  for (const std::int64_t updates : {std::int64_t{0}, std::int64_t{1}, std::int64_t{12}, std::int64_t{5000},
                                     (std::int64_t{1} << 33) + 1}) {
    for (const bool dense : {false, true}) {
      all.emplace_back(updates, dense, seed++);
      all.emplace_back(updates, dense, seed++).options.ages.local_age = false;
      Clock& other = all.emplace_back(updates, dense, seed++);
      other.options.ages = {
          .beta1 = 0, .beta2 = .5, .warmup = 0, .boost = 3, .boost_tau = 7, .local_age = true};
      other.options.weight_decay = 0;
    }
  }
  return all;
}

void expect_near(double got, double want) {
  if (std::isnan(want)) {
    EXPECT_TRUE(std::isnan(got));
  } else {
    EXPECT_LE(std::fabs(got - want), kUnits * 0x1p-53 * std::fabs(want)) << got << " and " << want;
  }
}

// More parameters than one launch takes, dense ones and sparse ones mixed: the twin's rows and keys.
TEST(CohortTableKernel, EqualsReference) {
  std::vector<Clock> host = clocks();
  std::vector<CohortTable> on_host;
  for (Clock& clock : host) {
    CohortTable table = clock.options;
    table.step = &clock.step;
    table.births = clock.births.size() > 0 ? clock.births.data() : nullptr;
    table.rows = clock.rows.data();
    table.keys = &clock.keys;
    on_host.push_back(table);
  }
  const kernels::CohortTableArgs host_args = {on_host.data(), std::ssize(on_host)};
  ASSERT_EQ(kernels::reference::cohort_table(serial(), host_args), Status::ok);

  for_each_schedule([&] {
    std::vector<OnDevice<std::int64_t>> step, births;
    std::vector<OnDevice<CohortRow>> rows;
    std::vector<OnDevice<StepKeys>> keys;
    std::vector<CohortTable> tables;
    for (const Clock& clock : host) {
      Buffer<std::int64_t> one(1);
      one[0] = clock.step;
      step.emplace_back(one);
      births.emplace_back(clock.births);
      rows.emplace_back(clock.rows.size());
      keys.emplace_back(1);
      CohortTable table = clock.options;
      table.step = step.back().data();
      table.births = clock.births.size() > 0 ? births.back().data() : nullptr;
      table.rows = rows.back().data();
      table.keys = keys.back().data();
      tables.push_back(table);
    }
    ASSERT_EQ(kernels::cuda::cohort_table(stream(), {tables.data(), std::ssize(tables)}), Status::ok);
    for (std::size_t t = 0; t < host.size(); ++t) {
      SCOPED_TRACE(t);
      const Buffer<CohortRow> got = rows[t].read();
      for (std::int64_t id = 0; id < got.size(); ++id) {
        SCOPED_TRACE(id);
        expect_near(got[id].decay, host[t].rows[id].decay);
        expect_near(got[id].step_size, host[t].rows[id].step_size);
        expect_near(got[id].bc2_sqrt, host[t].rows[id].bc2_sqrt);
      }
      EXPECT_EQ(keys[t].read()[0].rounding, host[t].keys.rounding);
      EXPECT_EQ(keys[t].read()[0].moments, host[t].keys.moments);
      EXPECT_EQ(step[t].read()[0], host[t].step);
    }
  });
  EXPECT_EQ(kernels::cuda::cohort_table(stream(), {nullptr, 0}), Status::ok);
}

// A learning rate in memory is the number that it holds; a birth that is not before the step is no row.
TEST(CohortTableKernel, ReadsTheLearningRateAndRefusesBirthsOfNoRun) {
  for_each_schedule([&] {
    Clock clock(9, false, 5);
    clock.births[3] = 10;
    OnDevice<std::int64_t> births(clock.births);
    OnDevice<CohortRow> rows(kIds), again(kIds);
    OnDevice<StepKeys> keys(1);
    Buffer<std::int64_t> nine(1);
    nine[0] = 9;
    OnDevice<std::int64_t> step(nine);
    Buffer<float> rate(1);
    rate[0] = 5e-4F;
    Buffer<double> wide(1);
    wide[0] = 5e-4F;
    OnDevice<float> lr(rate);
    OnDevice<double> lr_wide(wide);
    CohortTable table = clock.options;
    table.step = step.data();
    table.births = births.data();
    table.keys = keys.data();
    table.rows = rows.data();
    table.lr = lr.data();
    table.lr_dtype = DType::f32;
    ASSERT_EQ(kernels::cuda::cohort_table(stream(), {&table, 1}), Status::ok);
    table.rows = again.data();
    table.lr = lr_wide.data();
    table.lr_dtype = DType::f64;
    ASSERT_EQ(kernels::cuda::cohort_table(stream(), {&table, 1}), Status::ok);
    const Buffer<CohortRow> got = rows.read();
    const Buffer<CohortRow> got_wide = again.read();
    for (std::int64_t id = 0; id < kIds; ++id) {
      EXPECT_EQ(std::isnan(got[id].step_size), id == 3);
      if (id != 3) {
        EXPECT_EQ(got[id].step_size, got_wide[id].step_size);
      }
    }
    expect_near(got[0].decay, static_cast<double>(5e-4F) * 3 * .1);
    table.lr_dtype = DType::bf16;
    EXPECT_EQ(kernels::cuda::cohort_table(stream(), {&table, 1}), Status::unsupported_dtype);
  });
}

TEST(CountStepsKernel, CountsAllOrNone) {
  constexpr std::int64_t kCounters = 700;  // more than one launch takes
  for_each_schedule([&] {
    Buffer<std::int64_t> before(kCounters);
    for (std::int64_t i = 0; i < kCounters; ++i) before[i] = (std::int64_t{1} << 32) - i;
    OnDevice<std::int64_t> counters(before);
    std::vector<std::int64_t*> steps;
    for (std::int64_t i = 0; i < kCounters; ++i) steps.push_back(counters.data() + i);
    Buffer<float> flags(2);
    flags[1] = 1;
    OnDevice<float> found(flags);
    for (const float* flag : {static_cast<const float*>(nullptr), static_cast<const float*>(found.data()),
                              static_cast<const float*>(found.data() + 1)}) {
      ASSERT_EQ(kernels::cuda::count_steps(stream(), {steps.data(), kCounters, flag}), Status::ok);
    }
    for (std::int64_t i = 0; i < kCounters; ++i) EXPECT_EQ(counters.read()[i], before[i] + 2);
  });
  EXPECT_EQ(kernels::cuda::count_steps(stream(), {nullptr, 0, nullptr}), Status::ok);
}

}  // namespace
}  // namespace smet::test
