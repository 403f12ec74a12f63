// SPDX-License-Identifier: BSD-3-Clause
#include "src/nn/linear_places.h"

#include <torch/nn/modules/linear.h>

#include <algorithm>

#include "smet/sparse_linear.h"

namespace smet {
namespace {

// (out, in) of a linear layer, dense or sparse; false for any other module.
bool read_features(const torch::nn::Module& module, LinearPlace& place) {
  if (const auto* dense = dynamic_cast<const torch::nn::LinearImpl*>(&module)) {
    place.out_features = dense->options.out_features();
    place.in_features = dense->options.in_features();
    return true;
  }
  if (const auto* sparse = dynamic_cast<const SparseLinearImpl*>(&module)) {
    place.out_features = sparse->options.out_features();
    place.in_features = sparse->options.in_features();
    return true;
  }
  return false;
}

void walk(torch::nn::Module& parent, const std::string& prefix, std::vector<LinearPlace>& found) {
  auto* sequential = dynamic_cast<torch::nn::SequentialImpl*>(&parent);
  for (const auto& child : parent.named_children()) {
    LinearPlace place;
    place.name = prefix + child.key();
    place.module = child.value();
    if (!read_features(*child.value(), place)) {
      walk(*child.value(), place.name + ".", found);
      continue;
    }
    const auto known = std::find_if(found.begin(), found.end(),
                                    [&](const LinearPlace& other) { return other.module == place.module; });
    LinearPlace& layer = known != found.end() ? *known : found.emplace_back(std::move(place));
    layer.places.emplace_back(sequential, child.key());
  }
}

}  // namespace

std::vector<LinearPlace> linear_places(torch::nn::Module& model) {
  LinearPlace self;
  TORCH_CHECK_VALUE(!read_features(model, self),
                    "smet: the model is itself one linear layer, which cannot be replaced in place: use "
                    "SparseLinear::from_dense, or put it into a torch::nn::Sequential");
  std::vector<LinearPlace> found;
  walk(model, "", found);
  return found;
}

bool exchangeable(const LinearPlace& layer) {
  return std::all_of(layer.places.begin(), layer.places.end(),
                     [](const auto& place) { return place.first != nullptr; });
}

}  // namespace smet
