// SPDX-License-Identifier: BSD-3-Clause
// schedules: which fraction of a layer's weights a topology update replaces, as a function of the step.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace smet {

// f(t) for t = optimizer steps done, T = total_steps, x = min(t / T, 1), from `fraction` F to
// `final_fraction` E (README, "The method"):
//   "cosine"    E + (F - E) * (1 + cos(pi x)) / 2
//   "constant"  F
//   "linear"    F + (E - F) * x
//   "wsd"       F while x <= 0.9, then linear from F to E
// Throws ValueError for an unknown name; the message lists the known ones.
double fraction_at(std::string_view schedule, double fraction, double final_fraction, std::int64_t step,
                   std::int64_t total_steps);

// Names that `fraction_at` knows.
std::vector<std::string> fraction_schedules();

}  // namespace smet
