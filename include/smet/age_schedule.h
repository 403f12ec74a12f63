// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <functional>

namespace smet {

// Factor on the learning rate of a regrown weight, a function of its age a = number of updates since it was
// regrown, counting the current one (a = 1 at its first update):
//   warm(a) = min(1, a / warmup) * (1 + (boost - 1) * exp(-a / boost_tau))
// boost = 1 is the paper's linear warm-up (SMET, arXiv 2606.00888); boost > 1 gives newborns larger steps;
// warmup = 0 with boost = 1 is "none". Weights that stood at step 0 always have the factor 1: the run's own
// learning-rate warm-up covers them. `custom`, where set, replaces the formula; it must return finite numbers
// >= 0. One row of the cohort table per live cohort holds the result, so any function costs the same.
struct AgeSchedule {
  double warmup = 100;                         // W, in updates; 0 = none
  double boost = 1;                            // B
  double boost_tau = 50;                       // tau, in updates
  std::function<double(std::int64_t)> custom;  // replaces the formula where set

  // The schedules by name; they throw ValueError as check() does.
  static AgeSchedule none();
  static AgeSchedule linear(double warmup);
  static AgeSchedule boosted(double warmup, double boost, double boost_tau);
  static AgeSchedule function(std::function<double(std::int64_t)> factor);

  // warm(age). Throws ValueError when age < 1 or the custom function returns NaN, infinity or a negative
  // number.
  double operator()(std::int64_t age) const;

  // Throws ValueError naming the field that is out of range: warmup >= 0, boost >= 0, boost_tau > 0, all
  // finite.
  void check() const;
};

// Equal fields, and neither has a custom function.
bool operator==(const AgeSchedule& a, const AgeSchedule& b);

}  // namespace smet
