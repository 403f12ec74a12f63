// SPDX-License-Identifier: BSD-3-Clause
#include "smet/compact_adamw.h"

#include <torch/optim/serialize.h>
#include <torch/types.h>

#include <unordered_set>
#include <utility>

#include "smet/values_registry.h"
#include "src/ops/first_nonfinite.h"
#include "src/optim/fused_backward.h"
#include "src/optim/master_low.h"
#include "src/optim/step_call.h"

namespace smet {
namespace {

using torch::Tensor;
using torch::optim::OptimizerParamGroup;

const CompactAdamWOptions& options_of(const OptimizerParamGroup& group) {
  return static_cast<const CompactAdamWOptions&>(group.options());
}

AdamWHyper make_hyper(const CompactAdamWOptions& options) {
  AdamWHyper hyper;
  hyper.lr = options.lr();
  hyper.lr_tensor = options.lr_tensor();
  std::tie(hyper.beta1, hyper.beta2) = options.betas();
  hyper.eps = options.eps();
  hyper.weight_decay = options.weight_decay();
  hyper.coupled_weight_decay = options.coupled_weight_decay();
  hyper.density_scaling = options.density_scaling();
  hyper.age_schedule = options.age_schedule();
  hyper.local_age = options.local_age();
  hyper.maximize = options.maximize();
  hyper.stochastic_rounding = options.stochastic_rounding();
  hyper.master_weights = options.master_weights();
  hyper.moments = options.moments();
  hyper.seed = static_cast<uint64_t>(options.seed());
  return hyper;
}

Moments moments_of(const CompactAdamWParamState& state) {
  return {state.exp_avg(), state.exp_avg_sq(), state.exp_avg_scale(), state.exp_avg_sq_scale()};
}

void set_moments(CompactAdamWParamState& state, const Moments& moments) {
  state.exp_avg(moments.exp_avg).exp_avg_sq(moments.exp_avg_sq);
  state.exp_avg_scale(moments.exp_avg_scale).exp_avg_sq_scale(moments.exp_avg_sq_scale);
}

// Counters and births of a capturable optimizer belong where the parameter is.
void move_clock(CompactAdamWParamState& state, const Tensor& param) {
  const int64_t step = state.step();
  state.counter(torch::full({}, step, param.options().dtype(at::kLong).requires_grad(false)));
  if (state.births().defined()) state.births(state.births().to(param.device()));
}

CompactAdamWParamState new_state(const Tensor& param, const CompactAdamWOptions& options, bool capturable) {
  CompactAdamWParamState state;
  set_moments(state, new_moments(param, options.moments()));
  state.master_low(new_master_low(param, options.master_weights()));
  if (values_info(param)) {
    state.cohort(torch::zeros({param.numel()}, param.options().dtype(at::kByte).requires_grad(false)));
    state.births(torch::full({kCohortIds}, -1, at::kLong));
    state.births().mutable_data_ptr<int64_t>()[0] = 0;
  }
  if (capturable) move_clock(state, param);
  return state;
}

// How bfloat16 parameters are rounded is decided where the optimizer is built, unless it was so already.
void keep_master_weights(const CompactAdamWOptions& here, CompactAdamWOptions& loaded) {
  if (loaded.master_weights() == here.master_weights()) return;
  loaded.master_weights(here.master_weights()).stochastic_rounding(here.stochastic_rounding());
}

// A field that the user left at its constructor's value takes that of the defaults, as in torch's optimizers.
// torch does this for its own option types and replaces those of any other optimizer by the defaults.
std::unique_ptr<CompactAdamWOptions> merge(const torch::optim::OptimizerOptions& given,
                                           const CompactAdamWOptions& defaults) {
  const auto* user = dynamic_cast<const CompactAdamWOptions*>(&given);
  TORCH_CHECK_TYPE(user != nullptr,
                   "smet: a parameter group has options of another optimizer; expected "
                   "CompactAdamWOptions");
  const CompactAdamWOptions fresh;
  auto merged = std::make_unique<CompactAdamWOptions>(*user);
  const auto inherit = [&](auto get) {
    if (get(*user) == get(fresh)) get(*merged) = get(defaults);
  };
  inherit([](auto& o) -> auto& { return o.lr(); });
  inherit([](auto& o) -> auto& { return o.betas(); });
  inherit([](auto& o) -> auto& { return o.eps(); });
  inherit([](auto& o) -> auto& { return o.weight_decay(); });
  inherit([](auto& o) -> auto& { return o.coupled_weight_decay(); });
  inherit([](auto& o) -> auto& { return o.density_scaling(); });
  inherit([](auto& o) -> auto& { return o.age_schedule(); });
  inherit([](auto& o) -> auto& { return o.local_age(); });
  inherit([](auto& o) -> auto& { return o.maximize(); });
  inherit([](auto& o) -> auto& { return o.stochastic_rounding(); });
  inherit([](auto& o) -> auto& { return o.master_weights(); });
  inherit([](auto& o) -> auto& { return o.moments(); });
  inherit([](auto& o) -> auto& { return o.seed(); });
  if (!merged->lr_tensor().defined()) merged->lr_tensor(defaults.lr_tensor());
  return merged;
}

}  // namespace

void CompactAdamWOptions::check() const {
  TORCH_CHECK_VALUE(on_nonfinite() == "raise" || on_nonfinite() == "skip" || on_nonfinite() == "ignore",
                    "Invalid on_nonfinite: '", on_nonfinite(),
                    "'; expected \"raise\", \"skip\" or \"ignore\"");
  make_hyper(*this).check();
}

CompactAdamW::CompactAdamW(const std::vector<OptimizerParamGroup>& param_groups, CompactAdamWOptions defaults)
    : Optimizer(param_groups, std::make_unique<CompactAdamWOptions>(std::move(defaults))) {
  static_cast<const CompactAdamWOptions&>(*defaults_).check();
  TORCH_CHECK_VALUE(!capturable() || on_nonfinite() == "ignore",
                    "smet: CompactAdamW got capturable(true) and on_nonfinite(\"", on_nonfinite(),
                    "\"), for which every step would wait for the device; expected on_nonfinite(\"ignore\")");
  for (size_t g = 0; g < param_groups.size(); ++g) set_group_options(g, param_groups[g]);
  check_new_params(0);
  make_states(0);
  if (!static_cast<const CompactAdamWOptions&>(*defaults_).fused_backward()) return;
  fused_ = std::make_shared<FusedBackward>(*this);
  fused_->attach(0);
}

CompactAdamW::CompactAdamW(CompactAdamW&& other) noexcept
    : Optimizer(std::move(other)),
      names_(std::move(other.names_)),
      fused_(std::move(other.fused_)),
      skipped_steps_(other.skipped_steps_) {
  if (fused_) fused_->belong_to(*this);
}

CompactAdamW& CompactAdamW::operator=(CompactAdamW&& other) noexcept {
  Optimizer::operator=(static_cast<Optimizer&&>(other));  // moves the base alone
  names_ = std::move(other.names_);
  fused_ = std::move(other.fused_);
  skipped_steps_ = other.skipped_steps_;
  if (fused_) fused_->belong_to(*this);
  return *this;
}

CompactAdamW::CompactAdamW(std::vector<Tensor> params, CompactAdamWOptions defaults)
    : CompactAdamW({OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

CompactAdamW::CompactAdamW(const torch::OrderedDict<std::string, Tensor>& named_params,
                           CompactAdamWOptions defaults)
    : CompactAdamW(named_params.values(), std::move(defaults)) {
  for (const auto& entry : named_params) names_[entry.value().unsafeGetTensorImpl()] = entry.key();
}

void CompactAdamW::add_param_group(const OptimizerParamGroup& param_group) {
  Optimizer::add_param_group(param_group);
  const size_t added = param_groups_.size() - 1;
  try {
    set_group_options(added, param_group);
    check_new_params(added);
    if (fused_) fused_->attach(added);
  } catch (...) {
    param_groups_.pop_back();
    throw;
  }
  make_states(added);
}

void CompactAdamW::set_group_options(size_t group, const OptimizerParamGroup& given) {
  if (!given.has_options()) return;
  const auto& defaults = static_cast<const CompactAdamWOptions&>(*defaults_);
  param_groups_[group].set_options(merge(given.options(), defaults));
}

void CompactAdamW::check_new_params(size_t first_group) const {
  std::unordered_set<const void*> seen;
  size_t total = 0;
  for (size_t g = 0; g < param_groups_.size(); ++g) {
    if (g >= first_group) options_of(param_groups_[g]).check();
    for (const Tensor& param : param_groups_[g].params()) {
      TORCH_CHECK_VALUE(seen.insert(param.unsafeGetTensorImpl()).second, "smet: a parameter of shape ",
                        param.sizes(), " is listed twice; pass every parameter once");
      TORCH_CHECK_TYPE(at::isFloatingType(param.scalar_type()) && param.itemsize() > 1,
                       "smet: CompactAdamW got a parameter of dtype ", param.scalar_type(),
                       "; expected float32, float64, bfloat16 or float16");
      check_moment_option(param.scalar_type(), options_of(param_groups_[g]).moments());
      check_master_option(param.scalar_type(), options_of(param_groups_[g]).master_weights());
      ++total;
    }
  }
  TORCH_CHECK_VALUE(total > 0, "optimizer got an empty parameter list");
}

void CompactAdamW::make_states(size_t first_group) {
  for (size_t g = first_group; g < param_groups_.size(); ++g) {
    for (const Tensor& param : param_groups_[g].params()) {
      if (param.requires_grad()) state_in(param_groups_[g], param);
    }
  }
}

CompactAdamWParamState& CompactAdamW::state_in(const OptimizerParamGroup& group, const Tensor& param) {
  auto& slot = state_[param.unsafeGetTensorImpl()];
  if (!slot) {
    slot = std::make_unique<CompactAdamWParamState>(new_state(param, options_of(group), capturable()));
  }
  return static_cast<CompactAdamWParamState&>(*slot);
}

bool CompactAdamW::capturable() const {
  return static_cast<const CompactAdamWOptions&>(*defaults_).capturable();
}

CompactAdamWParamState& CompactAdamW::state_of(const Tensor& param) {
  for (const OptimizerParamGroup& group : param_groups_) {
    for (const Tensor& own : group.params()) {
      if (own.is_same(param)) return state_in(group, param);
    }
  }
  TORCH_CHECK_VALUE(false, "smet: state_of got a parameter of shape ", param.sizes(),
                    " that is in none of this optimizer's groups");
}

std::string CompactAdamW::name_of(const Tensor& param, int64_t index) const {
  const auto known = names_.find(param.unsafeGetTensorImpl());
  return known != names_.end() ? known->second : default_name(param, index);
}

std::vector<CompactAdamW::Place> CompactAdamW::places() const {
  std::vector<Place> all;
  for (const OptimizerParamGroup& group : param_groups_) {
    for (const Tensor& param : group.params()) {
      all.push_back({&group, param, static_cast<int64_t>(all.size())});
    }
  }
  return all;
}

const std::string& CompactAdamW::on_nonfinite() const {
  return static_cast<const CompactAdamWOptions&>(*defaults_).on_nonfinite();
}

void CompactAdamW::count_skipped(const std::string& why) {
  ++skipped_steps_;
  TORCH_WARN("smet: step skipped: ", why, " (", skipped_steps_, " skipped so far)");
}

bool CompactAdamW::skips(const std::vector<Place>& chosen) {
  if (on_nonfinite() != "skip") return false;
  std::vector<Tensor> grads;
  grads.reserve(chosen.size());
  for (const Place& place : chosen) grads.push_back(place.param.grad());
  const int64_t bad = ops::first_nonfinite(grads);
  if (bad < 0) return false;
  const Place& place = chosen[static_cast<size_t>(bad)];
  count_skipped("the gradient of '" + name_of(place.param, place.index) + "' holds NaN or infinity");
  return true;
}

Tensor CompactAdamW::step(LossClosure closure) {
  const torch::NoGradGuard no_grad;
  Tensor loss;
  if (closure) {
    const at::AutoGradMode enable_grad(true);
    loss = closure();
  }
  if (fused_) fused_->finish();
  std::vector<Place> chosen = places();
  std::erase_if(chosen, [](const Place& place) {
    return !place.param.requires_grad() || !place.param.grad().defined();
  });
  if (!skips(chosen)) update(chosen, on_nonfinite() == "raise");
  return loss;
}

void CompactAdamW::update(const std::vector<Place>& chosen, bool check_finite) {
  std::vector<AdamWHyper> hypers;
  hypers.reserve(chosen.size());  // StepCall keeps references
  std::vector<CompactAdamWParamState*> states;
  StepCall call;
  const OptimizerParamGroup* group = nullptr;
  for (const Place& place : chosen) {
    if (place.group != group) hypers.push_back(make_hyper(options_of(*place.group)));
    group = place.group;
    CompactAdamWParamState& state = state_in(*group, place.param);
    call.add({.param = place.param,
              .grad = place.param.grad(),
              .moments = moments_of(state),
              .master_low = state.master_low(),
              .cohort = state.cohort(),
              .births = state.births(),
              .step = capturable() ? 0 : state.step(),
              .counter = state.counter(),
              .index = place.index,
              .name = name_of(place.param, place.index)},
             hypers.back());
    states.push_back(&state);
  }
  call.run(check_finite);
  if (capturable()) return;  // they were counted where they are
  for (CompactAdamWParamState* state : states) state->step(state->step() + 1);
}

std::pair<Tensor, Tensor> CompactAdamW::clipped_backward(const LossClosure& backward, double max_norm) {
  TORCH_CHECK(fused_ != nullptr,
              "smet: clipped_backward() needs fused_backward(true); else use clip_grad_norm_");
  return fused_->clipped(backward, max_norm);
}

void CompactAdamW::save(torch::serialize::OutputArchive& archive) const {
  torch::optim::serialize<CompactAdamWParamState, CompactAdamWOptions>(archive, *this);
}

void CompactAdamW::load(torch::serialize::InputArchive& archive) {
  // torch's reader writes into the optimizer as it goes; what it replaces is kept until the result is
  // checked.
  auto old_state = std::move(state_);
  state_ = {};
  std::vector<CompactAdamWOptions> old_options;
  for (const OptimizerParamGroup& group : param_groups_) old_options.push_back(options_of(group));
  try {
    torch::optim::serialize<CompactAdamWParamState, CompactAdamWOptions>(archive, *this);
    for (size_t g = 0; g < param_groups_.size(); ++g) {
      auto& options = static_cast<CompactAdamWOptions&>(param_groups_[g].options());
      options.age_schedule().custom = old_options[g].age_schedule().custom;
      options.moments(old_options[g].moments());
      keep_master_weights(old_options[g], options);
      options.fused_backward(old_options[g].fused_backward());
      options.on_nonfinite(old_options[g].on_nonfinite());
      options.capturable(old_options[g].capturable()).lr_tensor(old_options[g].lr_tensor());
      options.check();
    }
    check_loaded();
    convert_loaded();
  } catch (...) {
    state_ = std::move(old_state);
    for (size_t g = 0; g < param_groups_.size(); ++g) {
      static_cast<CompactAdamWOptions&>(param_groups_[g].options()) = old_options[g];
    }
    throw;
  }
  make_states(0);
  if (fused_) fused_->finish();
}

void CompactAdamW::check_loaded() const {
  int64_t index = 0;
  for (const OptimizerParamGroup& group : param_groups_) {
    for (const Tensor& param : group.params()) {
      const std::string name = name_of(param, index++);
      const auto slot = state_.find(param.unsafeGetTensorImpl());
      if (slot == state_.end()) continue;
      const auto& state = static_cast<const CompactAdamWParamState&>(*slot->second);
      std::string problem = moments_problem(param, moments_of(state));
      if (problem.empty()) problem = master_low_problem(param, state.master_low());
      TORCH_CHECK_VALUE(problem.empty(), "smet: loaded optimizer state of '", name, "': ", problem,
                        "; nothing was changed");
      TORCH_CHECK_VALUE(state.step() >= 0, "smet: loaded optimizer state of '", name, "' has step ",
                        state.step(), "; nothing was changed");
      if (values_info(param))
        check_cohorts(state.cohort(), state.births(), param.numel(), state.step(), name);
    }
  }
}

void CompactAdamW::convert_loaded() {
  for (const OptimizerParamGroup& group : param_groups_) {
    for (const Tensor& param : group.params()) {
      const auto slot = state_.find(param.unsafeGetTensorImpl());
      if (slot == state_.end()) continue;
      auto& state = static_cast<CompactAdamWParamState&>(*slot->second);
      const Moments converted = new_moments(param, options_of(group).moments());
      copy_moments_(param, converted, moments_of(state));
      set_moments(state, converted);
      const Tensor low = new_master_low(param, options_of(group).master_weights());
      copy_master_low_(low, state.master_low());
      state.master_low(low);
      if (capturable()) move_clock(state, param);
    }
  }
}

}  // namespace smet
