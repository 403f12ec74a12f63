// SPDX-License-Identifier: BSD-3-Clause
// Taking over a saved TopologyState: everything is compared by name before anything changes.
#include <c10/util/Exception.h>

#include "src/topology/engine.h"

namespace smet {
namespace {

std::string text(const TopologyState::Value& value) {
  return std::visit(
      [](const auto& v) {
        if constexpr (std::is_same_v<decltype(v), const bool&>) return std::string(v ? "true" : "false");
        return c10::str(v);
      },
      value);
}

void check_config(const TopologyState& saved, const TopologyState& here) {
  const std::map<std::string, TopologyState::Value> options(saved.config.begin(), saved.config.end());
  for (const auto& [name, value] : here.config) {
    const auto other = options.find(name);
    TORCH_CHECK_VALUE(other != options.end(), "smet: the saved topology state has no option '", name, "'");
    TORCH_CHECK_VALUE(other->second == value, "smet: the topology state was saved with ", name, " = ",
                      text(other->second), ", this scheduler has ", text(value),
                      "; build it with the saved value to continue that run");
  }
  for (const auto& [name, value] : options) {
    bool known = false;
    for (const auto& [ours, unused] : here.config) known = known || ours == name;
    TORCH_CHECK_VALUE(known, "smet: the saved topology state has the unknown option '", name, "'");
  }
}

void check_record(const std::string& name, const LayerRecord& saved, const LayerRecord& here) {
  TORCH_CHECK_VALUE(saved.n == here.n, "smet: layer '", name, "' was saved with ", saved.n,
                    " active weights; the model here has ", here.n);
  TORCH_CHECK_VALUE(saved.last_cohort_id >= 0 && saved.last_cohort_id < 256 && saved.last_cohort_size >= 0 &&
                        saved.last_cohort_size <= saved.n,
                    "smet: the last cohort saved for layer '", name, "' is id ", saved.last_cohort_id, " of ",
                    saved.last_cohort_size, " weights, which cannot be");
  TORCH_CHECK_VALUE(saved.explored.defined() == here.explored.defined() &&
                        (!here.explored.defined() || (saved.explored.sizes() == here.explored.sizes() &&
                                                      saved.explored.scalar_type() == at::kInt)),
                    "smet: the explored bitmap saved for layer '", name, "' does not fit the layer");
}

}  // namespace

void TopologyEngine::check_state(const TopologyState& state) const {
  check_config(state, state_);
  TORCH_CHECK_VALUE(state.steps >= 0 && state.updates >= 0 && state.updates <= state.steps,
                    "smet: the saved topology state counts ", state.steps, " steps and ", state.updates,
                    " updates, which cannot be");
  for (const auto& [name, record] : state_.layers) {
    const auto saved = state.layers.find(name);
    TORCH_CHECK_VALUE(saved != state.layers.end(), "smet: the saved topology state has no layer '", name,
                      "'");
    check_record(name, saved->second, record);
  }
  for (const auto& [name, record] : state.layers) {
    TORCH_CHECK_VALUE(state_.layers.contains(name), "smet: the saved topology state has a layer '", name,
                      "', which the model here has not");
  }
}

void TopologyEngine::load_state(TopologyState state) {
  check_state(state);
  for (auto& [name, record] : state.layers) {
    if (record.explored.defined()) record.explored = record.explored.clone();
  }
  state_ = std::move(state);
  last_update_.reset();
}

}  // namespace smet
