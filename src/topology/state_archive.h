// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/serialize/archive.h>

#include "src/topology/engine.h"

namespace smet {

// A TopologyState in a torch archive: numbers, strings and tensors. Reading throws ValueError for an archive
// that holds none or another format.
void write_state(torch::serialize::OutputArchive& archive, const TopologyState& state);
TopologyState read_state(torch::serialize::InputArchive& archive);

}  // namespace smet
