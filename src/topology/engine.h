// SPDX-License-Identifier: BSD-3-Clause
// The topology engine: both front ends (C++ and Python TopologyScheduler) collect LayerViews and leave the
// rest to it.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "smet/topology_options.h"
#include "smet/topology_update.h"
#include "src/topology/criteria.h"

namespace smet {

// What the engine remembers of a layer between updates.
struct LayerRecord {
  std::int64_t n = 0;
  std::int64_t last_cohort_id = 0;  // newborns of its last update; 0 before the first
  std::int64_t last_cohort_size = 0;
  at::Tensor explored;  // bitmap like the mask of every position ever active; undefined unless tracked
};

// All of it, for checkpoints. `config` holds the options that the topology depends on.
struct TopologyState {
  using Value = std::variant<bool, std::int64_t, double, std::string>;
  std::vector<std::pair<std::string, Value>> config;
  std::int64_t steps = 0;
  std::int64_t updates = 0;
  std::optional<std::int64_t> optimizer_step;
  std::map<std::string, LayerRecord> layers;
};

class TopologyEngine {
 public:
  using Layers = std::vector<LayerView>;
  using OptimizerStep = std::optional<std::int64_t>;

  // Throws ValueError for options out of range, no layers, two layers of one name, or a layer whose tensors
  // do not fit together. optimizer_step: the optimizer's own counter, where it has one.
  TopologyEngine(TopologyOptions options, const Layers& layers, OptimizerStep optimizer_step);

  // The optimizer's counter has not moved since the last call: its step was skipped (a GradScaler found
  // infinities), so nothing is to be counted either.
  bool stalled(OptimizerStep optimizer_step) const;
  // The next counted step is an update step.
  bool due() const;
  // Counts one optimizer step.
  void advance(OptimizerStep optimizer_step);
  // The counter as it is now that the device has said which of the counted steps happened: as far as it is
  // behind, the clock goes back.
  void settle(OptimizerStep optimizer_step);
  // The counter as it will be if one more step happens: what is counted by where the optimizer's own counter
  // is on the device (capturable) and read only when an update is due.
  OptimizerStep expected_step() const;
  // Counts one optimizer step and updates every layer. Strong guarantee: every layer's new topology is
  // planned (scores, positions, checks, scratch) before the first is changed; an exception changes nothing.
  // `interruption` is called before each layer's plan and may throw.
  const TopologyUpdate& update(const Layers& layers, OptimizerStep optimizer_step,
                               const std::function<void()>& interruption = {});

  // Candidates that the backward pass before the next step must record for this layer; 0 = none.
  std::int64_t candidates_wanted(const LayerView& layer) const;
  bool needs_candidates() const { return grow_.needs_candidates; }
  // Whether the prune criterion reads the gradients of the values.
  bool needs_gradients() const { return prune_.needs_gradient; }

  const TopologyState& state() const { return state_; }
  // Throws ValueError naming the option or layer that differs.
  void check_state(const TopologyState& state) const;
  // As check_state; nothing is changed when that throws.
  void load_state(TopologyState state);

  const TopologyOptions& options() const { return options_; }
  const std::optional<TopologyUpdate>& last_update() const { return last_update_; }

 private:
  struct Plan;

  std::int64_t replaced(const LayerView& layer, std::int64_t step) const;
  void check_inputs(const LayerView& layer, std::int64_t k) const;
  Plan plan(const LayerView& layer, std::int64_t k) const;
  LayerUpdate commit(const LayerView& layer, const Plan& plan, const at::Tensor& scratch);

  TopologyOptions options_;
  PruneCriterion prune_;
  GrowCriterion grow_;
  TopologyState state_;
  std::optional<TopologyUpdate> last_update_;
};

}  // namespace smet
