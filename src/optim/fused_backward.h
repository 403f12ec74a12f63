// SPDX-License-Identifier: BSD-3-Clause
// CompactAdamW with fused_backward: a parameter is updated as soon as its gradient is complete. Twin of
// python/smet/_fused_backward.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "smet/compact_adamw.h"

namespace smet {

// torch calls a post-accumulate-grad hook when a backward pass has added its last term to a gradient. The
// hook updates that parameter and frees the gradient, so one layer's gradient lives at a time. It runs after
// the backward nodes that read the parameter, so no gradient is computed from updated weights.
class FusedBackward : public std::enable_shared_from_this<FusedBackward> {
 public:
  explicit FusedBackward(CompactAdamW& optimizer) : optimizer_(&optimizer) {}

  // The optimizer was moved.
  void belong_to(CompactAdamW& optimizer) { optimizer_ = &optimizer; }

  // Watch the parameters of the groups from `first_group` on that require a gradient now; others are updated
  // by step() alone. Throws RuntimeError for a parameter that another hook watches: torch keeps one for each.
  void attach(size_t first_group);

  // The gradient of parameter number `index` is complete: update it, or only measure the gradient.
  void complete(const at::Tensor& param, int64_t index);

  // See CompactAdamW::clipped_backward.
  std::pair<at::Tensor, at::Tensor> clipped(const torch::optim::Optimizer::LossClosure& backward,
                                            double max_norm);

  // step() was called: what was updated since the last one is one step.
  void finish() { updated_.clear(); }

 private:
  struct Norms {
    std::vector<std::pair<int64_t, at::Tensor>> of;  // (index, norm), in the order of the backward pass
    std::string bad;                                 // name of the first that was not finite
  };

  void check_use(int64_t index, const std::string& name) const;

  CompactAdamW* optimizer_;
  std::unordered_set<int64_t> updated_;  // indices of the parameters updated since step()
  std::optional<Norms> norms_;           // while gradients are measured
  at::Tensor factor_;                    // of the gradients of the pass that updates; undefined: 1
};

}  // namespace smet
