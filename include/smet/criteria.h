// SPDX-License-Identifier: BSD-3-Clause
// criteria: what is pruned and what is grown. A criterion is one function and one registration line in
// src/topology/criteria.cpp, or a callable given to TopologyOptions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace smet {

// One sparse layer as the topology engine sees it; n = number of active weights.
struct LayerView {
  std::string name;                 // canonical: keys the random choices
  at::Tensor values;                // [n]
  at::Tensor mask;                  // int32 [out, ceil(cols / 32)]
  at::Tensor rank;                  // int32 [out, ceil(cols / 1024)]
  std::int64_t cols = 0;            // input features
  at::Tensor grad;                  // [n], or undefined
  std::vector<at::Tensor> moments;  // optimizer state of shape [n] that travels with the values
  at::Tensor cohort;                // uint8 [n], or undefined
  at::Tensor births;                // int64 [256] on the CPU or where the values are, or undefined; given
                                    // exactly when cohort is
  std::int64_t state_step = 0;      // updates that the optimizer has given this layer
  at::Tensor grow_candidates;       // int64 [k] recorded by the last backward, or undefined
};

// What a criterion may look at. Tensors are the live ones: read them, never write.
struct TopologyContext {
  LayerView layer;      // the layer at hand
  std::int64_t step;    // optimizer steps done
  std::int64_t update;  // number of this update, 1-based
  std::uint64_t key;    // layer_key(seed, name)

  // int64 [n]: flat positions row * cols + column of the values, ascending. Made on demand.
  at::Tensor positions() const;
};

// Scores [n] of any floating dtype; the smallest are pruned first (of |score| when `magnitude`). NaN comes
// before every number, equal scores in the order of their positions.
struct PruneScores {
  at::Tensor score;        // [n]
  bool magnitude = false;  // whether |score| counts
};

// What a caller may give instead of a name: scores [n]; k flat positions, int64 [k], inactive and unique.
using PruneFunction = std::function<at::Tensor(const TopologyContext&)>;
using GrowFunction = std::function<at::Tensor(const TopologyContext&, std::int64_t k)>;

// Names of the registered criteria.
std::vector<std::string> prune_criteria();
std::vector<std::string> grow_criteria();

}  // namespace smet
