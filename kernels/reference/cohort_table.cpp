// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cohort_table.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace smet::kernels::reference {
namespace {

constexpr int kCohorts = 256;

double learning_rate(const CohortTable& table) {
  if (table.lr == nullptr) return table.lr_value;
  if (table.lr_dtype == DType::f64) return *static_cast<const double*>(table.lr);
  return static_cast<double>(*static_cast<const float*>(table.lr));
}

CohortRow row_of(const CohortTable& table, double rate, std::int64_t step, std::int64_t birth) {
  if (birth < 0 || birth >= step) {
    constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
    return {kNan, kNan, kNan};
  }
  const AgeFactors factors = age_factors(table.ages, step, birth);
  const double lr_w = rate * factors.warm;
  return {lr_w * table.weight_decay, lr_w / factors.bias1, factors.bias2_sqrt};
}

void fill(const CohortTable& table) {
  const std::int64_t step = *table.step + 1;
  const double rate = learning_rate(table) * table.lr_scale;
  if (table.births == nullptr) {
    table.rows[0] = row_of(table, rate, step, 0);
  } else {
    for (int id = 0; id < kCohorts; ++id) {
      table.rows[id] = row_of(table, rate, step, table.births[table.births[id] < 0 ? 0 : id]);
    }
  }
  *table.keys = step_keys(table.seed, table.index, step);
}

}  // namespace

double warm(double warmup, double boost, double boost_tau, std::int64_t age) {
  const auto a = static_cast<double>(age);
  const double ramp = warmup > 0 ? std::min(1.0, a / warmup) : 1.0;
  return ramp * (1 + (boost - 1) * std::exp(-a / boost_tau));
}

AgeFactors age_factors(const AgeOptions& options, std::int64_t step, std::int64_t birth) {
  const std::int64_t age = step - birth;
  const auto corrected = static_cast<double>(options.local_age ? age : step);
  // pow, as Python's ** 0.5 in torch's AdamW: it can differ from sqrt in the last bit
  return {1 - std::pow(options.beta1, corrected), std::pow(1 - std::pow(options.beta2, corrected), 0.5),
          birth > 0 ? warm(options.warmup, options.boost, options.boost_tau, age) : 1};
}

Status cohort_table(const Executor& /*executor*/, const CohortTableArgs& args) {
  for (std::int64_t t = 0; t < args.count; ++t) {
    const CohortTable& table = args.tables[t];
    if (table.lr != nullptr && table.lr_dtype != DType::f32 && table.lr_dtype != DType::f64) {
      return Status::unsupported_dtype;
    }
  }
  for (std::int64_t t = 0; t < args.count; ++t) fill(args.tables[t]);
  return Status::ok;
}

Status count_steps(const Executor& /*executor*/, const CountStepsArgs& args) {
  if (args.found_inf != nullptr && *args.found_inf != 0) return Status::ok;
  for (std::int64_t i = 0; i < args.count; ++i) ++*args.steps[i];
  return Status::ok;
}

}  // namespace smet::kernels::reference
