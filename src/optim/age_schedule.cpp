// SPDX-License-Identifier: BSD-3-Clause
#include "smet/age_schedule.h"

#include <c10/util/Exception.h>

#include <cmath>
#include <utility>

#include "kernels/cohort_table.h"

namespace smet {

AgeSchedule AgeSchedule::none() {
  return linear(0);
}

AgeSchedule AgeSchedule::linear(double warmup) {
  return boosted(warmup, 1, 50);
}

AgeSchedule AgeSchedule::boosted(double warmup, double boost, double boost_tau) {
  AgeSchedule schedule;
  schedule.warmup = warmup;
  schedule.boost = boost;
  schedule.boost_tau = boost_tau;
  schedule.check();
  return schedule;
}

AgeSchedule AgeSchedule::function(std::function<double(std::int64_t)> factor) {
  AgeSchedule schedule;
  schedule.custom = std::move(factor);
  return schedule;
}

double AgeSchedule::operator()(std::int64_t age) const {
  TORCH_CHECK_VALUE(age >= 1, "smet: an age schedule was asked for age ", age,
                    "; ages start at 1, the first update after a weight was regrown");
  if (custom) {
    const double factor = custom(age);
    TORCH_CHECK_VALUE(std::isfinite(factor) && factor >= 0, "smet: the age schedule returned ", factor,
                      " for age ", age, "; expected a finite number >= 0");
    return factor;
  }
  return kernels::reference::warm(warmup, boost, boost_tau, age);
}

void AgeSchedule::check() const {
  const auto check = [](bool valid, const char* field, double value, const char* expected) {
    TORCH_CHECK_VALUE(valid && std::isfinite(value), "Invalid ", field, ": ", value, "; expected ", expected);
  };
  check(warmup >= 0, "warmup", warmup, "a number of updates >= 0 (0 = none)");
  check(boost >= 0, "boost", boost, "a factor >= 0 (1 = none)");
  check(boost_tau > 0, "boost_tau", boost_tau, "a number of updates > 0");
}

bool operator==(const AgeSchedule& a, const AgeSchedule& b) {
  return !a.custom && !b.custom && a.warmup == b.warmup && a.boost == b.boost && a.boost_tau == b.boost_tau;
}

}  // namespace smet
