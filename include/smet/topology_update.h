// SPDX-License-Identifier: BSD-3-Clause
// topology_update: what one topology update did, for logs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace smet {

// What an update did to one layer.
struct LayerUpdate {
  std::string name;        // canonical
  std::int64_t n;          // active weights; the same before and after
  std::int64_t positions;  // out * in
  std::int64_t k;          // weights replaced
  std::int64_t nan_count;  // NaN scores; these weights are pruned first
  std::uint64_t hash;      // mask_hash of the new topology
  // Newborns of the previous update and how many of them this one pruned; none at the first update or without
  // cohorts.
  std::optional<std::int64_t> last_cohort_size;
  std::int64_t last_cohort_died;
  std::optional<std::int64_t> explored_positions;  // ever active; only with track_explored

  double density() const;                            // n / positions
  double churn() const;                              // k / n
  std::optional<double> last_cohort_pruned() const;  // last_cohort_died / last_cohort_size
  std::optional<double> explored() const;            // explored_positions / positions
};

// What an update did to a model.
struct TopologyUpdate {
  std::int64_t update;              // 1-based
  std::int64_t step;                // optimizer steps done
  double fraction;                  // asked for: f(step)
  std::uint64_t hash;               // of all layers, whatever their order
  std::vector<LayerUpdate> layers;  // in the model's order

  // The same numbers over all layers.
  std::int64_t n() const;
  std::int64_t k() const;
  std::int64_t nan_count() const;
  double density() const;
  double churn() const;
  std::optional<double> last_cohort_pruned() const;
  std::optional<double> explored() const;

  // One line for the model and one per layer.
  std::string to_string() const;
};

}  // namespace smet
