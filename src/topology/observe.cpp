// SPDX-License-Identifier: BSD-3-Clause
#include "src/topology/observe.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/bincount.h>
#include <c10/util/Exception.h>

#include "src/topology/layer_checks.h"
#include "src/topology/layer_key.h"

namespace smet {

std::uint64_t layer_hash(const at::Tensor& mask, std::int64_t cols) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("smet::mask_hash", "")
                             .typed<at::Tensor(const at::Tensor&, std::int64_t)>();
  return static_cast<std::uint64_t>(op.call(mask, cols).item<std::int64_t>());
}

std::uint64_t topology_hash(const std::vector<LayerUpdate>& layers) {
  std::uint64_t hash = 0;
  for (const LayerUpdate& layer : layers) hash += layer_key(layer.hash, layer.name);
  return hash;
}

std::uint64_t topology_hash(const std::vector<LayerView>& layers) {
  std::uint64_t hash = 0;
  for (const LayerView& layer : layers) hash += layer_key(layer_hash(layer.mask, layer.cols), layer.name);
  return hash;
}

std::map<std::int64_t, std::int64_t> age_histogram(const LayerView& layer) {
  TORCH_CHECK_VALUE(
      layer.cohort.defined(), "smet: layer '", layer.name,
      "' has no cohorts, so ages are not known; train it with CompactAdamW and give that to the "
      "scheduler");
  check_layer(layer);
  const at::Tensor counts = at::bincount(layer.cohort, {}, kCohortIds).cpu();
  const auto* count = counts.const_data_ptr<std::int64_t>();
  const at::Tensor births = layer.births.cpu();
  const auto* birth = births.const_data_ptr<std::int64_t>();
  std::map<std::int64_t, std::int64_t> ages;
  for (std::int64_t id = 0; id < kCohortIds; ++id) {
    if (count[id] > 0) ages[layer.state_step - birth[id]] += count[id];
  }
  return ages;
}

}  // namespace smet
