// SPDX-License-Identifier: BSD-3-Clause
#include "src/optim/cohort_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

namespace smet {
namespace {

struct Row {
  double decay, step_size, bc2_sqrt;
};

Row row(const at::Tensor& table, int64_t id) {
  const double* data = table.const_data_ptr<double>() + 3 * id;
  return {data[0], data[1], data[2]};
}

std::vector<int64_t> no_births() {
  std::vector<int64_t> births(kCohortIds, -1);
  births[0] = 0;
  return births;
}

template <typename Error = c10::ValueError>
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what_without_backtrace();
  }
  return "(no error)";
}

TEST(CohortTable, DenseParameterHasOneRowOfTorchsAdamW) {
  AdamWHyper hyper;
  hyper.lr = 2e-3;
  hyper.weight_decay = 0.1;
  for (const int64_t step : {int64_t{1}, int64_t{7}, (int64_t{1} << 24) + 1}) {
    CohortTables tables;
    const at::Tensor table = tables.table({step, nullptr}, hyper, 1.0, "w");
    ASSERT_EQ(table.sizes(), (at::IntArrayRef{1, 3}));
    const auto t = static_cast<double>(step);
    EXPECT_EQ(row(table, 0).decay, 2e-3 * 0.1);
    EXPECT_EQ(row(table, 0).step_size, 2e-3 / (1 - std::pow(0.9, t)));
    EXPECT_EQ(row(table, 0).bc2_sqrt, std::pow(1 - std::pow(0.999, t), 0.5));
  }
}

TEST(CohortTable, RowsFollowTheMethod) {
  AdamWHyper hyper;
  hyper.lr = 1e-2;
  hyper.weight_decay = 0.5;
  hyper.age_schedule = AgeSchedule::boosted(40, 3, 10);
  std::vector<int64_t> births = no_births();
  births[3] = 100;
  births[255] = 119;
  CohortTables tables;
  const at::Tensor table = tables.table({120, births.data()}, hyper, 0.25, "w");
  ASSERT_EQ(table.sizes(), (at::IntArrayRef{256, 3}));
  const auto expect = [&](int64_t id, double age, double warm) {
    const double lr_w = 1e-2 / std::sqrt(0.25) * warm;
    EXPECT_DOUBLE_EQ(row(table, id).decay, lr_w * 0.5) << id;
    EXPECT_DOUBLE_EQ(row(table, id).step_size, lr_w / (1 - std::pow(0.9, age))) << id;
    EXPECT_DOUBLE_EQ(row(table, id).bc2_sqrt, std::sqrt(1 - std::pow(0.999, age))) << id;
  };
  expect(0, 120, 1);
  expect(3, 20, 20.0 / 40 * (1 + 2 * std::exp(-2)));
  expect(255, 1, 1.0 / 40 * (1 + 2 * std::exp(-0.1)));
  expect(17, 120, 1);  // an unused id repeats row 0
}

TEST(CohortTable, GlobalStepKeepsTheWarmup) {
  AdamWHyper hyper;
  hyper.local_age = false;
  std::vector<int64_t> births = no_births();
  births[1] = 50;
  CohortTables tables;
  const at::Tensor table = tables.table({60, births.data()}, hyper, 1.0, "w");
  EXPECT_DOUBLE_EQ(row(table, 1).step_size, row(table, 0).step_size * 0.1);
  EXPECT_EQ(row(table, 1).bc2_sqrt, row(table, 0).bc2_sqrt);
}

TEST(CohortTable, CoupledDecayIsNotInTheRow) {
  AdamWHyper hyper;
  hyper.coupled_weight_decay = true;
  CohortTables tables;
  EXPECT_EQ(row(tables.table({1, nullptr}, hyper, 1.0, "w"), 0).decay, 0.0);
}

TEST(CohortTable, EqualLayersShareATableAndAgesAreComputedOnce) {
  AdamWHyper hyper;
  int calls = 0;
  hyper.age_schedule = AgeSchedule::function([&calls](int64_t) {
    ++calls;
    return 0.5;
  });
  std::vector<int64_t> births = no_births();
  births[1] = 2;
  std::vector<int64_t> same_births = births;
  std::vector<int64_t> other_births = births;
  other_births[1] = 3;
  CohortTables tables;
  const at::Tensor first = tables.table({9, births.data()}, hyper, 0.5, "a");
  EXPECT_TRUE(tables.table({9, same_births.data()}, hyper, 0.5, "b").is_same(first));
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(
      tables.table({9, births.data()}, hyper, 0.25, "c").is_same(first));  // other density, same ages
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(tables.table({10, births.data()}, hyper, 0.5, "d").is_same(first));
  EXPECT_FALSE(tables.table({9, other_births.data()}, hyper, 0.5, "e").is_same(first));
  EXPECT_EQ(calls, 3);
}

TEST(CohortTable, RefusesWhatWouldWriteNonsense) {
  CohortTables tables;
  AdamWHyper hyper;
  std::vector<int64_t> births = no_births();
  births[5] = 10;
  EXPECT_NE(message_of([&] {
              tables.table({10, births.data()}, hyper, 0.5, "fc");
            }).find("cohort 5 of 'fc' was born at step 10, not in 0 to 9"),
            std::string::npos);
  for (const double density : {0.0, -1.0, 1.5, std::nan("")}) {
    EXPECT_NE(message_of([&] {
                tables.table({1, nullptr}, hyper, density, "fc");
              }).find("'fc' has density"),
              std::string::npos);
  }
  hyper.lr = std::nan("");
  EXPECT_NE(message_of([&] {
              tables.table({1, nullptr}, hyper, 1, "fc");
            }).find("learning rate of 'fc'"),
            std::string::npos);
}

TEST(AgeSchedule, FormulaAndItsLimits) {
  EXPECT_EQ(AgeSchedule()(1), 0.01);
  EXPECT_EQ(AgeSchedule()(100), 1);
  EXPECT_EQ(AgeSchedule()(5000), 1);
  EXPECT_EQ(AgeSchedule::none()(1), 1);
  EXPECT_DOUBLE_EQ(AgeSchedule::boosted(5, 4, 50)(5), 1 + 3 * std::exp(-0.1));
  EXPECT_NE(message_of([] { AgeSchedule()(0); }).find("ages start at 1"), std::string::npos);
  EXPECT_NE(message_of([] { AgeSchedule::linear(-1); }).find("Invalid warmup: -1"), std::string::npos);
  EXPECT_NE(message_of([] { AgeSchedule::boosted(1, 1, 0); }).find("Invalid boost_tau: 0"),
            std::string::npos);
  const auto bad = AgeSchedule::function([](int64_t) { return -1.0; });
  EXPECT_NE(message_of([&] { bad(3); }).find("returned -1 for age 3"), std::string::npos);
}

TEST(RoundingKey, DiffersBySeedParameterAndStepAndIsNeverOff) {
  EXPECT_NE(rounding_key(0, 0, 1), rounding_key(0, 0, 2));
  EXPECT_NE(rounding_key(0, 0, 1), rounding_key(0, 1, 1));
  EXPECT_NE(rounding_key(0, 0, 1), rounding_key(1, 0, 1));
  for (int64_t step = 1; step < 1000; ++step) EXPECT_NE(rounding_key(0, 0, step), 0);
}

}  // namespace
}  // namespace smet
