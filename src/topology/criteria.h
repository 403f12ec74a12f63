// SPDX-License-Identifier: BSD-3-Clause
// The registered criteria as the engine uses them.
#pragma once

#include <functional>
#include <optional>

#include "smet/topology_options.h"

namespace smet {

struct PruneCriterion {
  std::function<PruneScores(const TopologyContext&)> scores;
  bool needs_gradient = false;  // the engine checks that there is one before it asks for scores
  bool supplied = false;        // by the caller: it may fail for any layer, and its result is checked
};

struct GrowCriterion {
  // k flat positions, or nullopt for uniform keyed draws.
  std::function<std::optional<at::Tensor>(const TopologyContext&, std::int64_t k)> positions;
  bool needs_candidates = false;  // recorded by the backward pass before the update (grad_topk_)
  bool supplied = false;
};

// The criterion that the options name or hold. Throws ValueError for an unknown name, which lists the known
// ones, and for an empty function.
PruneCriterion prune_criterion(const TopologyOptions::Prune& prune);
GrowCriterion grow_criterion(const TopologyOptions::Grow& grow);

}  // namespace smet
