// SPDX-License-Identifier: BSD-3-Clause
#include "smet/distribution.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "src/topology/registry.h"

namespace smet {
namespace {

using Shapes = std::vector<std::array<std::int64_t, 2>>;

void check_density(double density) {
  TORCH_CHECK_VALUE(density > 0.0 && density <= 1.0, "smet: density is ", density,
                    "; expected 0 < density <= 1 (the fraction of weights that exist)");
}

// out * in of a layer. Sums of these over a model must fit int64 too, hence the limit.
std::int64_t positions(std::int64_t out, std::int64_t in) {
  TORCH_CHECK_VALUE(out >= 0 && in >= 0, "smet: a layer has shape [", out, ", ", in,
                    "]; expected sizes of 0 or more");
  TORCH_CHECK_VALUE(in == 0 || out <= std::numeric_limits<std::int64_t>::max() / (1 << 20) / in,
                    "smet: a layer of shape [", out, ", ", in, "] has too many positions");
  return out * in;
}

std::int64_t rounded_share(double density, std::int64_t total) {
  return std::min<std::int64_t>(std::llround(density * static_cast<double>(total)), total);
}

std::vector<std::int64_t> uniform(const Shapes& shapes, double density) {
  std::vector<std::int64_t> counts;
  counts.reserve(shapes.size());
  for (const auto& [out, in] : shapes) counts.push_back(active_count(density, out, in));
  return counts;
}

// Water filling: layers whose share passes their size are filled and leave the pool, until none does. Sums
// are integers, so the outcome does not depend on the order of the layers (but for equal remainders).
std::vector<std::int64_t> erk(const Shapes& shapes, double density) {
  const std::size_t layers = shapes.size();
  std::int64_t total = 0;
  for (const auto& [out, in] : shapes) total += positions(out, in);
  std::int64_t budget = rounded_share(density, total);

  std::vector<std::int64_t> counts(layers, 0);
  std::vector<std::size_t> pool(layers);
  std::iota(pool.begin(), pool.end(), std::size_t{0});
  double share = 0.0;  // active weights per unit of out + in
  for (;;) {
    std::int64_t perimeter = 0;
    for (const std::size_t i : pool) perimeter += shapes[i][0] + shapes[i][1];
    share = perimeter > 0 ? static_cast<double>(budget) / static_cast<double>(perimeter) : 0.0;
    std::vector<std::size_t> open;
    for (const std::size_t i : pool) {
      const auto [out, in] = shapes[i];
      const bool full = share * static_cast<double>(out + in) >= static_cast<double>(out * in);
      if (full) counts[i] = out * in;
      if (!full) open.push_back(i);
    }
    if (open.size() == pool.size()) break;
    for (const std::size_t i : pool) budget -= counts[i];
    pool = std::move(open);
  }

  std::vector<double> remainder(layers, 0.0);
  for (const std::size_t i : pool) {
    const double quota = share * static_cast<double>(shapes[i][0] + shapes[i][1]);
    counts[i] = static_cast<std::int64_t>(std::floor(quota));
    remainder[i] = quota - std::floor(quota);
    budget -= counts[i];
  }
  std::stable_sort(pool.begin(), pool.end(),
                   [&](std::size_t a, std::size_t b) { return remainder[a] > remainder[b]; });
  for (std::size_t j = 0; budget > 0; j = (j + 1) % pool.size()) {
    const auto [out, in] = shapes[pool[j]];
    if (counts[pool[j]] == out * in) continue;
    ++counts[pool[j]];
    --budget;
  }
  return counts;
}

using Distribution = std::vector<std::int64_t> (*)(const Shapes&, double);

// One function and one line here per distribution.
const Registry<Distribution>& distributions() {
  static const Registry<Distribution> registry("distribution", {{"uniform", uniform}, {"erk", erk}});
  return registry;
}

}  // namespace

std::int64_t active_count(double density, std::int64_t out_features, std::int64_t in_features) {
  check_density(density);
  return rounded_share(density, positions(out_features, in_features));
}

std::vector<std::int64_t> distribute(const Shapes& shapes, double density, std::string_view distribution) {
  check_density(density);
  return distributions().at(distribution)(shapes, density);
}

std::vector<std::string> distribution_names() {
  return distributions().names();
}

}  // namespace smet
