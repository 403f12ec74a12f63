// SPDX-License-Identifier: BSD-3-Clause
// distribution: how many weights of each layer are active, at one global density.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace smet {

// n = round(density * out * in), halves away from zero: the exact count of one layer in the method. Throws
// ValueError unless 0 < density <= 1 and both sizes are >= 0.
std::int64_t active_count(double density, std::int64_t out_features, std::int64_t in_features);

// Active weights of each layer; shapes are (out, in). A layer takes its count as
// SparseLinearOptions(in, out).density(n / (out * in)).
//   "uniform"  n_i = active_count(density, out_i, in_i)
//   "erk"      n_i proportional to out_i + in_i (Erdos-Renyi by fan-in and fan-out: Mocanu et al. 2018; Evci
//              et al. 2020), capped at out_i * in_i, what the cap cuts off redistributed over the others.
//              sum(n_i) = round(density * sum(out_i * in_i)) exactly: quotas are rounded by largest remainder
//              (equal remainders: the earlier layer first).
// Throws ValueError as active_count does, and for an unknown name (the message lists the known ones).
std::vector<std::int64_t> distribute(const std::vector<std::array<std::int64_t, 2>>& shapes, double density,
                                     std::string_view distribution = "uniform");

// Names that `distribute` knows.
std::vector<std::string> distribution_names();

}  // namespace smet
