// SPDX-License-Identifier: BSD-3-Clause
#include "smet/schedules.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "src/topology/registry.h"

namespace smet {
namespace {

// (fraction, final fraction, progress of the run in [0, 1]) -> fraction
using Schedule = double (*)(double first, double last, double progress);

double cosine(double first, double last, double progress) {
  return last + (first - last) * (1.0 + std::cos(std::numbers::pi * progress)) / 2.0;
}

double constant(double first, double /*last*/, double /*progress*/) {
  return first;
}

double linear(double first, double last, double progress) {
  return first + (last - first) * progress;
}

// Warmup-stable-decay without the warm-up: the learning-rate shape of that name has one, churn needs none.
double wsd(double first, double last, double progress) {
  constexpr double kStable = 0.9;
  return linear(first, last, std::max(0.0, progress - kStable) / (1.0 - kStable));
}

// One function above and one line here per schedule.
const Registry<Schedule>& schedules() {
  static const Registry<Schedule> registry(
      "fraction_schedule", {{"cosine", cosine}, {"constant", constant}, {"linear", linear}, {"wsd", wsd}});
  return registry;
}

}  // namespace

double fraction_at(std::string_view schedule, double fraction, double final_fraction, std::int64_t step,
                   std::int64_t total_steps) {
  const double progress = std::min(1.0, static_cast<double>(step) / static_cast<double>(total_steps));
  return schedules().at(schedule)(fraction, final_fraction, progress);
}

std::vector<std::string> fraction_schedules() {
  return schedules().names();
}

}  // namespace smet
