// SPDX-License-Identifier: BSD-3-Clause
// Checks of what comes to the engine from outside; every message names the layer.
#pragma once

#include <c10/util/Exception.h>

#include <string>
#include <string_view>

#include "smet/criteria.h"

namespace smet {

inline constexpr std::int64_t kCohortIds = 256;

// Throws when the tensors of a layer do not fit together (README, "What is in the house").
void check_layer(const LayerView& layer);

// Throws unless grow_candidates holds k positions that a backward pass has written.
void check_candidates(const LayerView& layer, std::int64_t k);

// What a caller's criterion returned: scores are a floating tensor [n] on the layer's device, positions an
// int64 tensor [k] there. What the positions say is checked by smet::topology_plan.
void check_scores(const at::Tensor& score, const LayerView& layer);
void check_positions(const at::Tensor& positions, std::int64_t k, const LayerView& layer);

// `call()`, with the layer's name put in front of the message of a torch exception.
template <typename F>
auto with_layer_name(std::string_view name, F&& call) {
  const auto message = [&](const c10::Error& error) {
    constexpr std::string_view kPrefix = "smet: ";
    std::string_view what = error.what_without_backtrace();
    if (what.substr(0, kPrefix.size()) == kPrefix) what.remove_prefix(kPrefix.size());
    return "smet: layer '" + std::string(name) + "': " + std::string(what);
  };
  try {
    return call();
  } catch (const c10::ValueError& error) {
    TORCH_CHECK_VALUE(false, message(error));
  } catch (const c10::TypeError& error) {
    TORCH_CHECK_TYPE(false, message(error));
  }
}

}  // namespace smet
