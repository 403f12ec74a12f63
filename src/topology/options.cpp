// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>

#include <cmath>

#include "smet/schedules.h"
#include "smet/topology_options.h"
#include "src/topology/criteria.h"

namespace smet {
namespace {

void check_unit(double value, const char* option) {
  TORCH_CHECK_VALUE(value >= 0.0 && value <= 1.0, "smet: ", option, " is ", value, "; expected 0 to 1");
}

}  // namespace

void TopologyOptions::check() const {
  TORCH_CHECK_VALUE(interval_ >= 1, "smet: interval is ", interval_,
                    "; expected 1 or more optimizer steps between topology updates");
  TORCH_CHECK_VALUE(total_steps_ >= 1, "smet: total_steps is ", total_steps_,
                    "; expected the number of optimizer steps of the whole run, 1 or more");
  check_unit(fraction_, "fraction");
  check_unit(final_fraction_, "final_fraction");
  if (const auto* step = std::get_if<std::int64_t>(&stop_)) {
    TORCH_CHECK_VALUE(*step >= 0 && *step <= total_steps_, "smet: stop is step ", *step,
                      "; expected a step from 0 to total_steps, ", total_steps_,
                      " (a float is a fraction of total_steps)");
  } else {
    const double part = std::get<double>(stop_);
    TORCH_CHECK_VALUE(part >= 0.0 && part <= 1.0, "smet: stop is ", part,
                      "; expected a fraction of total_steps from 0 to 1 (an integer is a step)");
  }
  TORCH_CHECK_VALUE(seed_ >= 0, "smet: seed is ", seed_, "; expected 0 to 2^63 - 1");
  fraction_at(0);  // throws for an unknown schedule
  prune_criterion(prune_);
  grow_criterion(grow_);
}

std::int64_t TopologyOptions::end_step() const {
  // 0.55 * 100 is a little more than 55 in binary, and step 55 must not count as before it.
  constexpr double kSlack = 1e-6;
  if (const auto* step = std::get_if<std::int64_t>(&stop_)) return *step;
  return static_cast<std::int64_t>(
      std::ceil(std::get<double>(stop_) * static_cast<double>(total_steps_) - kSlack));
}

double TopologyOptions::fraction_at(std::int64_t step) const {
  return smet::fraction_at(fraction_schedule_, fraction_, final_fraction_, step, total_steps_);
}

}  // namespace smet
