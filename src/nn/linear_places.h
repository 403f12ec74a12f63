// SPDX-License-Identifier: BSD-3-Clause
// The linear layers of a model and the Sequentials that hold them.
#pragma once

#include <torch/nn/modules/container/sequential.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace smet {

// A torch::nn::Linear (or subclass) or SparseLinear of a model.
struct LinearPlace {
  std::string name;  // the first under which it is registered
  std::shared_ptr<torch::nn::Module> module;
  std::int64_t out_features = 0, in_features = 0;
  // Every (parent, key) where it is registered; a null parent is no Sequential.
  std::vector<std::pair<torch::nn::SequentialImpl*, std::string>> places;
  std::int64_t n = 0;  // weights that it gets
};

// Each once, in the order of named_modules(). Throws ValueError when `model` is itself one linear layer.
std::vector<LinearPlace> linear_places(torch::nn::Module& model);

// Whether all places of the layer are in Sequentials, where it can be exchanged.
bool exchangeable(const LinearPlace& layer);

// Puts `layer` wherever `place` is; its training flag becomes that of what it replaces.
template <typename Layer>
void exchange(const LinearPlace& place, const std::shared_ptr<Layer>& layer) {
  layer->train(place.module->is_training());
  for (const auto& [parent, key] : place.places) {
    parent->replace_module(key, layer);
    for (torch::nn::AnyModule& slot : *parent) {
      if (slot.ptr() == place.module) slot = torch::nn::AnyModule(layer);
    }
  }
}

}  // namespace smet
