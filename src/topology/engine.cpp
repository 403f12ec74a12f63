// SPDX-License-Identifier: BSD-3-Clause
#include "src/topology/engine.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/bitwise_or.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "src/ops/topology_update.h"
#include "src/topology/layer_checks.h"
#include "src/topology/layer_key.h"
#include "src/topology/observe.h"
#include "src/topology/positions.h"

namespace smet {
namespace {

constexpr std::int64_t kNewbornIds = 255;  // ids 1 to 255; 0 is mature

// New masks that wait for the commit of all layers, in bytes; those of layers beyond are made twice, since
// the masks of a 7b model are .8 GB. SMET_PLAN_BYTES overrides it, for tests.
std::int64_t plan_bytes() {
  const char* const given = std::getenv("SMET_PLAN_BYTES");
  return given != nullptr && *given != '\0' ? std::atoll(given) : std::int64_t{64} << 20;
}

std::int64_t newborn_id(std::int64_t update) {
  return 1 + (update - 1) % kNewbornIds;
}

// The grad travels with the values, so that gradients accumulated across an update stay aligned.
std::vector<at::Tensor> carried(const LayerView& layer) {
  std::vector<at::Tensor> tensors = layer.moments;
  if (layer.grad.defined()) tensors.push_back(layer.grad);
  return tensors;
}

std::optional<at::Tensor> optional_tensor(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

// One buffer per device, large enough for the largest layer there.
std::map<std::string, at::Tensor> commit_scratch(const std::vector<LayerView>& layers) {
  std::map<std::string, std::pair<at::Device, std::int64_t>> bytes;
  for (const LayerView& layer : layers) {
    const at::Device device = layer.values.device();
    auto& most = bytes.try_emplace(device.str(), device, 0).first->second.second;
    most = std::max(most, ops::commit_scratch_bytes(layer.values, carried(layer)));
  }
  std::map<std::string, at::Tensor> scratch;
  for (const auto& [name, size] : bytes) {
    scratch[name] = at::empty({size.second}, at::TensorOptions(at::kByte).device(size.first));
  }
  return scratch;
}

std::vector<std::pair<std::string, TopologyState::Value>> describe(const TopologyOptions& options) {
  const auto criterion = [](const auto& choice) {
    const auto* name = std::get_if<std::string>(&choice);
    return name != nullptr ? *name : std::string("callable");
  };
  return {{"interval", options.interval()},
          {"fraction", options.fraction()},
          {"final_fraction", options.final_fraction()},
          {"fraction_schedule", options.fraction_schedule()},
          {"stop_step", options.end_step()},
          {"total_steps", options.total_steps()},
          {"prune", criterion(options.prune())},
          {"grow", criterion(options.grow())},
          {"seed", options.seed()},
          {"track_explored", options.track_explored()}};
}

}  // namespace

struct TopologyEngine::Plan {
  std::int64_t k;
  at::Tensor new_mask;
  std::int64_t nan_count;
  at::Tensor explored;  // the bitmap as it will be, or undefined
};

TopologyEngine::TopologyEngine(TopologyOptions options, const Layers& layers, OptimizerStep optimizer_step)
    : options_(std::move(options)) {
  options_.check();
  prune_ = prune_criterion(options_.prune());
  grow_ = grow_criterion(options_.grow());
  TORCH_CHECK_VALUE(!layers.empty(),
                    "smet: the model has no sparse layer; call smet.sparsify_(model, density) or build it "
                    "with SparseLinear first");
  state_.config = describe(options_);
  state_.optimizer_step = optimizer_step;
  for (const LayerView& layer : layers) {
    check_layer(layer);
    LayerRecord record;
    record.n = layer.values.numel();
    if (options_.track_explored()) record.explored = layer.mask.clone();
    const bool first = state_.layers.emplace(layer.name, std::move(record)).second;
    TORCH_CHECK_VALUE(first, "smet: two sparse layers have the name '", layer.name,
                      "'; expected unique names, since they key the random choices");
  }
}

bool TopologyEngine::stalled(OptimizerStep optimizer_step) const {
  return optimizer_step.has_value() && optimizer_step == state_.optimizer_step;
}

bool TopologyEngine::due() const {
  const std::int64_t step = state_.steps + 1;
  return step % options_.interval() == 0 && step < options_.end_step();
}

void TopologyEngine::advance(OptimizerStep optimizer_step) {
  ++state_.steps;
  state_.optimizer_step = optimizer_step;
}

void TopologyEngine::settle(OptimizerStep optimizer_step) {
  if (!optimizer_step.has_value() || optimizer_step >= state_.optimizer_step) return;
  state_.steps -= *state_.optimizer_step - *optimizer_step;
  state_.optimizer_step = optimizer_step;
}

TopologyEngine::OptimizerStep TopologyEngine::expected_step() const {
  OptimizerStep step = state_.optimizer_step;
  if (step.has_value()) ++*step;
  return step;
}

std::int64_t TopologyEngine::replaced(const LayerView& layer, std::int64_t step) const {
  const std::int64_t n = layer.values.numel();
  const std::int64_t inactive = layer.mask.size(0) * layer.cols - n;
  const double wanted = std::floor(options_.fraction_at(step) * static_cast<double>(n));
  return std::min({static_cast<std::int64_t>(wanted), n, inactive});
}

std::int64_t TopologyEngine::candidates_wanted(const LayerView& layer) const {
  return grow_.needs_candidates && due() ? replaced(layer, state_.steps + 1) : 0;
}

void TopologyEngine::check_inputs(const LayerView& layer, std::int64_t k) const {
  check_layer(layer);
  const auto record = state_.layers.find(layer.name);
  TORCH_CHECK_VALUE(record != state_.layers.end(), "smet: layer '", layer.name,
                    "' was not there when the scheduler was built; build a new one");
  TORCH_CHECK_VALUE(record->second.n == layer.values.numel(), "smet: layer '", layer.name, "' has ",
                    layer.values.numel(), " active weights; it had ", record->second.n,
                    " when the scheduler was built. Build a new one");
  TORCH_CHECK(!prune_.needs_gradient || layer.grad.defined(), "smet: layer '", layer.name,
              "' has no gradient, which the prune criterion needs; call the scheduler's step() after "
              "backward() and the optimizer's step(), and before zero_grad()");
  if (grow_.needs_candidates && k > 0) check_candidates(layer, k);
}

TopologyEngine::Plan TopologyEngine::plan(const LayerView& layer, std::int64_t k) const {
  const TopologyContext context{.layer = layer,
                                .step = state_.steps + 1,
                                .update = state_.updates + 1,
                                .key = layer_key(static_cast<std::uint64_t>(options_.seed()), layer.name)};
  const PruneScores scores = prune_.scores(context);
  if (prune_.supplied) check_scores(scores.score, layer);
  std::optional<at::Tensor> positions;
  if (k > 0) positions = grow_.positions(context, k);
  if (grow_.supplied && k > 0) check_positions(*positions, k, layer);
  return with_layer_name(layer.name, [&] {
    const auto [new_mask, nan_count] =
        ops::topology_plan(layer.mask, layer.rank, scores.score.detach(), scores.magnitude, layer.cols, k,
                           positions, static_cast<std::int64_t>(context.key), context.update);
    Plan plan{.k = k, .new_mask = new_mask, .nan_count = nan_count.item<std::int64_t>(), .explored = {}};
    if (options_.track_explored()) {
      plan.explored = at::bitwise_or(state_.layers.at(layer.name).explored.to(new_mask.device()), new_mask);
    }
    return plan;
  });
}

LayerUpdate TopologyEngine::commit(const LayerView& layer, const Plan& plan, const at::Tensor& scratch) {
  const std::int64_t newborn = newborn_id(state_.updates + 1);
  const at::Tensor died =
      ops::topology_commit_(layer.values, layer.mask, layer.rank, carried(layer),
                            optional_tensor(layer.cohort), plan.new_mask, layer.cols, newborn, scratch);
  LayerRecord& record = state_.layers.at(layer.name);
  LayerUpdate update{.name = layer.name,
                     .n = layer.values.numel(),
                     .positions = layer.mask.size(0) * layer.cols,
                     .k = plan.k,
                     .nan_count = plan.nan_count,
                     .hash = layer_hash(layer.mask, layer.cols),
                     .last_cohort_size = std::nullopt,
                     .last_cohort_died = 0,
                     .explored_positions = std::nullopt};
  if (layer.cohort.defined()) {
    layer.births.select(0, newborn).fill_(layer.state_step);
    if (record.last_cohort_id > 0) {
      update.last_cohort_size = record.last_cohort_size;
      update.last_cohort_died = died.const_data_ptr<std::int64_t>()[record.last_cohort_id];
    }
  }
  record.last_cohort_id = newborn;
  record.last_cohort_size = plan.k;
  if (plan.explored.defined()) {
    record.explored = plan.explored;
    update.explored_positions = count_bits(plan.explored);
  }
  return update;
}

const TopologyUpdate& TopologyEngine::update(const Layers& layers, OptimizerStep optimizer_step,
                                             const std::function<void()>& interruption) {
  const at::NoGradGuard no_grad;
  const std::int64_t step = state_.steps + 1;
  for (const LayerView& layer : layers) check_inputs(layer, replaced(layer, step));

  // Criteria of ours are functions of what is there, and say the same when they are asked again.
  const bool ask_once = prune_.supplied || grow_.supplied;
  std::int64_t room = plan_bytes();
  std::vector<std::optional<Plan>> plans;
  plans.reserve(layers.size());
  for (const LayerView& layer : layers) {
    if (interruption) interruption();
    Plan made = plan(layer, replaced(layer, step));
    room -= static_cast<std::int64_t>(made.new_mask.nbytes()) * (made.explored.defined() ? 2 : 1);
    plans.push_back(ask_once || room >= 0 ? std::optional(std::move(made)) : std::nullopt);
  }

  const std::map<std::string, at::Tensor> scratch = commit_scratch(layers);

  TopologyUpdate result{.update = state_.updates + 1,
                        .step = step,
                        .fraction = options_.fraction_at(step),
                        .hash = 0,
                        .layers = {}};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (!plans[i]) plans[i] = plan(layers[i], replaced(layers[i], step));
    result.layers.push_back(commit(layers[i], *plans[i], scratch.at(layers[i].values.device().str())));
    plans[i].reset();
  }
  result.hash = topology_hash(result.layers);
  advance(optimizer_step);
  ++state_.updates;
  return last_update_.emplace(std::move(result));
}

}  // namespace smet
