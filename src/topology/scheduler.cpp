// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/full.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <unordered_set>
#include <utility>
#include <vector>

#include "smet/compact_adamw.h"
#include "smet/sparse_linear.h"
#include "smet/sparsify.h"
#include "smet/topology_scheduler.h"
#include "src/topology/engine.h"
#include "src/topology/observe.h"
#include "src/topology/scheduler_state.h"
#include "src/topology/state_archive.h"

namespace smet {
namespace {

using torch::optim::OptimizerParamState;
using LayerPtr = std::shared_ptr<SparseLinearImpl>;

// State that travels with the values, as the view names it. Unknown kinds are refused: their state would stay
// behind, at positions that are not its own any more.
void add_state(LayerView& view, OptimizerParamState& state) {
  std::vector<at::Tensor> moments;
  if (auto* compact = dynamic_cast<CompactAdamWParamState*>(&state)) {
    moments = {compact->exp_avg(), compact->exp_avg_sq(), compact->master_low()};
    view.cohort = compact->cohort();
    view.births = compact->births();
    view.state_step = compact->step();
  } else if (auto* adamw = dynamic_cast<torch::optim::AdamWParamState*>(&state)) {
    moments = {adamw->exp_avg(), adamw->exp_avg_sq(), adamw->max_exp_avg_sq()};
    view.state_step = adamw->step();
  } else if (auto* adam = dynamic_cast<torch::optim::AdamParamState*>(&state)) {
    moments = {adam->exp_avg(), adam->exp_avg_sq(), adam->max_exp_avg_sq()};
    view.state_step = adam->step();
  } else if (auto* sgd = dynamic_cast<torch::optim::SGDParamState*>(&state)) {
    moments = {sgd->momentum_buffer()};
  } else {
    TORCH_CHECK_VALUE(false, "smet: the optimizer's state of layer '", view.name,
                      "' is of a kind that TopologyScheduler cannot move; use CompactAdamW, or torch's Adam, "
                      "AdamW or SGD");
  }
  for (const at::Tensor& moment : moments) {
    if (moment.defined()) view.moments.push_back(moment);
  }
}

}  // namespace

struct TopologyScheduler::Impl {
  std::vector<std::pair<std::string, LayerPtr>> layers;
  torch::optim::Optimizer* optimizer;
  std::optional<TopologyEngine> engine;
  bool armed = false;

  Impl(torch::nn::Module& model, torch::optim::Optimizer* opt, TopologyOptions options)
      : layers(sparse_layers(model)), optimizer(opt) {
    check_optimizer();
    engine.emplace(std::move(options), views(/*all=*/true), optimizer_step());
    check_gradients();
    arm();
  }

  void check_gradients() const {
    const auto* compact = dynamic_cast<const CompactAdamW*>(optimizer);
    TORCH_CHECK_VALUE(
        !engine->needs_gradients() || compact == nullptr || !compact->fused_backward(),
        "smet: the prune criterion reads gradients, but the optimizer has fused_backward(true), which frees "
        "every gradient before an update could look at it; use another criterion, or fused_backward(false)");
  }

  void check_optimizer() const {
    if (optimizer == nullptr) return;
    std::unordered_set<const void*> held;
    for (const auto& group : optimizer->param_groups()) {
      for (const at::Tensor& param : group.params()) held.insert(param.unsafeGetTensorImpl());
    }
    for (const auto& [name, layer] : layers) {
      TORCH_CHECK_VALUE(!layer->values.requires_grad() || held.contains(layer->values.unsafeGetTensorImpl()),
                        "smet: the optimizer does not hold the values of layer '", name,
                        "'; build it from this model's parameters");
    }
  }

  LayerView view(const std::string& name, const LayerPtr& layer) const {
    LayerView view;
    view.name = name;
    view.values = layer->values;
    view.mask = layer->mask;
    view.rank = layer->rank;
    view.cols = layer->options.in_features();
    view.grad = layer->values.grad();
    view.grow_candidates = layer->grow_candidates;
    if (optimizer != nullptr) {
      const auto state = optimizer->state().find(layer->values.unsafeGetTensorImpl());
      if (state != optimizer->state().end()) add_state(view, *state->second);
    }
    return view;
  }

  std::vector<LayerView> views(bool all) const {
    std::vector<LayerView> result;
    for (const auto& [name, layer] : layers) {
      if (all || layer->values.requires_grad()) result.push_back(view(name, layer));
    }
    return result;
  }

  // The optimizer's own counter: the largest of the layers'. SGD has none.
  TopologyEngine::OptimizerStep optimizer_step() const {
    TopologyEngine::OptimizerStep step;
    if (optimizer == nullptr) return step;
    for (const auto& [name, layer] : layers) {
      const auto state = optimizer->state().find(layer->values.unsafeGetTensorImpl());
      if (state == optimizer->state().end()) continue;
      if (dynamic_cast<torch::optim::SGDParamState*>(state->second.get()) != nullptr) continue;
      LayerView counted;
      counted.name = name;
      add_state(counted, *state->second);
      step = std::max(step.value_or(0), counted.state_step);
    }
    return step;
  }

  // Whether to read that counter means to wait for a device.
  bool counts_on_device() const {
    const auto* compact = dynamic_cast<const CompactAdamW*>(optimizer);
    return compact != nullptr && compact->capturable();
  }

  // Takes back counted steps that did not happen.
  void settle() {
    if (counts_on_device()) engine->settle(optimizer_step());
  }

  // Asks the layers to record growth candidates in the backward passes before an update step.
  void arm() {
    const bool now = engine->needs_candidates() && engine->due();
    if (!now && !armed) return;
    armed = now;
    for (const auto& [name, layer] : layers) {
      const std::int64_t wanted =
          layer->values.requires_grad() ? engine->candidates_wanted(view(name, layer)) : 0;
      layer->grow_candidates =
          wanted > 0 ? at::full({wanted}, -1, at::TensorOptions(at::kLong).device(layer->values.device()))
                     : at::Tensor();
    }
  }
};

TopologyScheduler::TopologyScheduler(torch::nn::Module& model, torch::optim::Optimizer& optimizer,
                                     TopologyOptions options)
    : impl_(std::make_unique<Impl>(model, &optimizer, std::move(options))) {}

TopologyScheduler::TopologyScheduler(torch::nn::Module& model, TopologyOptions options)
    : impl_(std::make_unique<Impl>(model, nullptr, std::move(options))) {}

TopologyScheduler::~TopologyScheduler() = default;
TopologyScheduler::TopologyScheduler(TopologyScheduler&&) noexcept = default;
TopologyScheduler& TopologyScheduler::operator=(TopologyScheduler&&) noexcept = default;

std::optional<TopologyUpdate> TopologyScheduler::step() {
  TopologyEngine& engine = *impl_->engine;
  const bool on_device = impl_->counts_on_device();
  auto optimizer_step = on_device ? engine.expected_step() : impl_->optimizer_step();
  if (on_device && engine.due()) {
    const auto counted = std::exchange(optimizer_step, impl_->optimizer_step());
    if (optimizer_step < counted) {
      engine.advance(counted);
      engine.settle(optimizer_step);
      impl_->arm();
      return std::nullopt;
    }
  }
  if (engine.stalled(optimizer_step)) return std::nullopt;
  std::optional<TopologyUpdate> update;
  if (engine.due()) {
    update = engine.update(impl_->views(/*all=*/false), optimizer_step);
  } else {
    engine.advance(optimizer_step);
  }
  impl_->arm();
  return update;
}

std::int64_t TopologyScheduler::steps() const {
  impl_->settle();
  return impl_->engine->state().steps;
}

std::int64_t TopologyScheduler::updates() const {
  return impl_->engine->state().updates;
}

const std::optional<TopologyUpdate>& TopologyScheduler::last_update() const {
  return impl_->engine->last_update();
}

std::uint64_t TopologyScheduler::hash() const {
  return topology_hash(impl_->views(/*all=*/true));
}

std::map<std::int64_t, std::int64_t> TopologyScheduler::ages(const std::string& layer) const {
  for (const auto& [name, module] : impl_->layers) {
    if (name == layer) return age_histogram(impl_->view(name, module));
  }
  TORCH_CHECK_VALUE(false, "smet: no sparse layer '", layer, "' in the model");
}

void TopologyScheduler::save(torch::serialize::OutputArchive& archive) const {
  impl_->settle();
  write_state(archive, impl_->engine->state());
}

void TopologyScheduler::load(torch::serialize::InputArchive& archive) {
  load_topology_state(*this, read_state(archive));
}

const TopologyEngine& topology_engine(const TopologyScheduler& scheduler) {
  scheduler.impl_->settle();
  return *scheduler.impl_->engine;
}

void load_topology_state(TopologyScheduler& scheduler, TopologyState state) {
  scheduler.impl_->engine->load_state(std::move(state));
  scheduler.impl_->arm();
}

}  // namespace smet
