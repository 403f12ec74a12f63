// SPDX-License-Identifier: BSD-3-Clause
// The engine inside a TopologyScheduler, for checkpoints.
#pragma once

#include "smet/topology_scheduler.h"
#include "src/topology/engine.h"

namespace smet {

const TopologyEngine& topology_engine(const TopologyScheduler& scheduler);
// As TopologyScheduler::load.
void load_topology_state(TopologyScheduler& scheduler, TopologyState state);

}  // namespace smet
