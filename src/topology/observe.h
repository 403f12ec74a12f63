// SPDX-License-Identifier: BSD-3-Clause
// What can be read off sparse layers at any time, besides the report of an update.
#pragma once

#include <map>
#include <vector>

#include "smet/criteria.h"
#include "smet/topology_update.h"

namespace smet {

// mask_hash of one layer.
std::uint64_t layer_hash(const at::Tensor& mask, std::int64_t cols);

// One number for a whole model: sum modulo 2^64 of layer_key(layer_hash, name), so it is equal for equal
// topologies of equally named layers, in any order.
std::uint64_t topology_hash(const std::vector<LayerUpdate>& layers);
std::uint64_t topology_hash(const std::vector<LayerView>& layers);

// Ages of a layer's weights (updates received since each was grown) -> how many. Weights of cohort 0, the
// initial ones and those whose cohort was merged, count as old as the layer. Throws ValueError without
// cohorts.
std::map<std::int64_t, std::int64_t> age_histogram(const LayerView& layer);

}  // namespace smet
