// SPDX-License-Identifier: BSD-3-Clause
#include "src/optim/step_call.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <utility>

#include "smet/values_registry.h"

namespace smet {
namespace {

void adamw_step_(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs,
                 at::TensorList exp_avg_sqs, at::TensorList cohorts, at::TensorList tables,
                 at::ArrayRef<double> beta1, at::ArrayRef<double> beta2, at::ArrayRef<double> eps,
                 at::ArrayRef<double> l2, const c10::List<bool>& maximize, at::IntArrayRef rounding_keys,
                 const c10::List<std::string>& names, bool check_finite, at::IntArrayRef moment_keys,
                 const std::optional<at::Tensor>& found_inf, const std::optional<at::Tensor>& grad_scale) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("smet::adamw_step_", "").typed<decltype(adamw_step_)>();
  op.call(params, grads, exp_avgs, exp_avg_sqs, cohorts, tables, beta1, beta2, eps, l2, maximize,
          rounding_keys, names, check_finite, moment_keys, found_inf, grad_scale);
}

const std::int64_t* births_of(const ParamUpdate& update) {
  if (!update.births.defined()) return nullptr;
  TORCH_CHECK_VALUE(
      update.births.scalar_type() == at::kLong && update.births.device().is_cpu() &&
          update.births.dim() == 1 && update.births.numel() == kCohortIds && update.births.is_contiguous(),
      "smet: the births of '", update.name, "' are ", update.births.scalar_type(), " ", update.births.sizes(),
      " on ", update.births.device(), "; expected int64 [256] on the CPU");
  return update.births.const_data_ptr<std::int64_t>();
}

// What the operator cannot say, since such a call would be dispatched elsewhere.
void check_same_place(const ParamUpdate& update) {
  TORCH_CHECK(update.grad.layout() == at::kStrided, "smet: the gradient of '", update.name, "' is ",
              update.grad.layout(), "; expected a strided tensor (an embedding with sparse=True?)");
  for (const at::Tensor* tensor : {&update.grad, &update.exp_avg, &update.exp_avg_sq, &update.cohort}) {
    TORCH_CHECK_VALUE(!tensor->defined() || tensor->device() == update.param.device(), "smet: '", update.name,
                      "' is on ", update.param.device(), ", its gradient or optimizer state on ",
                      tensor->device(), "; build the optimizer after moving the model");
  }
}

}  // namespace

void StepCall::add(ParamUpdate update, const AdamWHyper& hyper) {
  if (update.name.empty()) update.name = default_name(update.param, update.index);
  check_same_place(update);
  const CohortClock clock{update.step + 1, births_of(update)};
  tables_.push_back(cohort_tables_.table(clock, hyper, density_of(update.param), update.name));
  params_.push_back(std::move(update.param));
  grads_.push_back(std::move(update.grad));
  exp_avgs_.push_back(std::move(update.exp_avg));
  exp_avg_sqs_.push_back(std::move(update.exp_avg_sq));
  static const at::Tensor no_cohort = at::empty({0}, at::kByte);
  if (!update.cohort.defined()) update.cohort = no_cohort;
  cohorts_.push_back(std::move(update.cohort));
  beta1_.push_back(hyper.beta1);
  beta2_.push_back(hyper.beta2);
  eps_.push_back(hyper.eps);
  l2_.push_back(hyper.coupled_weight_decay ? hyper.weight_decay : 0);
  maximize_.push_back(hyper.maximize);
  rounding_keys_.push_back(hyper.stochastic_rounding ? rounding_key(hyper.seed, update.index, clock.step)
                                                     : 0);
  moment_keys_.push_back(moment_key(hyper.seed, update.index, clock.step));
  names_.push_back(update.name);
}

void StepCall::run(bool check_finite, const std::optional<at::Tensor>& found_inf,
                   const std::optional<at::Tensor>& grad_scale) {
  if (params_.empty()) return;
  adamw_step_(params_, grads_, exp_avgs_, exp_avg_sqs_, cohorts_, tables_, beta1_, beta2_, eps_, l2_,
              maximize_, rounding_keys_, names_, check_finite, moment_keys_, found_inf, grad_scale);
}

at::ScalarType moment_type(at::ScalarType param, const std::string& moments) {
  TORCH_CHECK_TYPE(
      param != at::kDouble || moments != "bf16",
      "smet: CompactAdamW got a float64 parameter and moments=\"bf16\"; expected moments=\"fp32\", "
      "with which a float64 parameter has float64 moments. Put it into a group of its own");
  if (param == at::kDouble) return at::kDouble;
  return moments == "bf16" ? at::kBFloat16 : at::kFloat;
}

void copy_moment_(const at::Tensor& to, const at::Tensor& from) {
  to.copy_(from);
  if (to.scalar_type() == at::kBFloat16 && from.scalar_type() != at::kBFloat16) {
    constexpr double kSmallest = 0x1p-133;  // subnormal bf16
    to.masked_fill_(from.gt(0).logical_and_(to.eq(0)), kSmallest);
  }
}

std::string default_name(const at::Tensor& param, std::int64_t index) {
  const auto info = values_info(param);
  return info && !info->name.empty() ? info->name + ".values" : "parameter " + std::to_string(index);
}

double density_of(const at::Tensor& param) {
  const auto info = values_info(param);
  return info && param.numel() > 0 ? info->density(param.numel()) : 1;
}

}  // namespace smet
