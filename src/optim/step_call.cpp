// SPDX-License-Identifier: BSD-3-Clause
#include "src/optim/step_call.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <tuple>
#include <utility>

#include "smet/values_registry.h"

namespace smet {
namespace {

void adamw_step_(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs,
                 at::TensorList exp_avg_sqs, at::TensorList exp_avg_scales, at::TensorList exp_avg_sq_scales,
                 at::TensorList master_lows, at::TensorList ranks, at::IntArrayRef cols,
                 at::TensorList cohorts, at::TensorList tables, at::ArrayRef<double> beta1,
                 at::ArrayRef<double> beta2, at::ArrayRef<double> eps, at::ArrayRef<double> l2,
                 const c10::List<bool>& maximize, at::IntArrayRef rounding_keys,
                 const c10::List<std::string>& names, bool check_finite, at::IntArrayRef moment_keys,
                 const std::optional<at::Tensor>& found_inf, const std::optional<at::Tensor>& grad_scale,
                 const std::optional<at::Tensor>& keys) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("smet::adamw_step_", "").typed<decltype(adamw_step_)>();
  op.call(params, grads, exp_avgs, exp_avg_sqs, exp_avg_scales, exp_avg_sq_scales, master_lows, ranks, cols,
          cohorts, tables, beta1, beta2, eps, l2, maximize, rounding_keys, names, check_finite, moment_keys,
          found_inf, grad_scale, keys);
}

std::tuple<at::Tensor, at::Tensor> cohort_table(
    at::TensorList steps, at::TensorList births, at::TensorList lrs, at::ArrayRef<double> lr,
    at::ArrayRef<double> lr_scale, at::ArrayRef<double> weight_decay, at::ArrayRef<double> beta1,
    at::ArrayRef<double> beta2, at::ArrayRef<double> warmup, at::ArrayRef<double> boost,
    at::ArrayRef<double> boost_tau, const c10::List<bool>& local_age, at::IntArrayRef seeds,
    at::IntArrayRef indices, const c10::List<std::string>& names) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("smet::cohort_table", "")
                             .typed<decltype(cohort_table)>();
  return op.call(steps, births, lrs, lr, lr_scale, weight_decay, beta1, beta2, warmup, boost, boost_tau,
                 local_age, seeds, indices, names);
}

void count_steps_(at::TensorList steps, const std::optional<at::Tensor>& found_inf) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("smet::count_steps_", "")
                             .typed<decltype(count_steps_)>();
  op.call(steps, found_inf);
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
void check_same_place(const ParamUpdate& update, const AdamWHyper& hyper) {
  TORCH_CHECK(update.grad.layout() == at::kStrided, "smet: the gradient of '", update.name, "' is ",
              update.grad.layout(), "; expected a strided tensor (an embedding with sparse=True?)");
  const auto check = [&](const at::Tensor& tensor, const char* what) {
    TORCH_CHECK_VALUE(!tensor.defined() || tensor.device() == update.param.device(), "smet: '", update.name,
                      "' is on ", update.param.device(), ", its ", what, " on ", tensor.device(),
                      "; build the optimizer after moving the model");
  };
  for (const at::Tensor* tensor :
       {&update.grad, &update.moments.exp_avg, &update.moments.exp_avg_sq, &update.moments.exp_avg_scale,
        &update.moments.exp_avg_sq_scale, &update.master_low, &update.cohort}) {
    check(*tensor, "gradient or optimizer state");
  }
  if (!update.counter.defined()) return;
  check(update.counter, "counter");
  check(update.births, "births");
  check(hyper.lr_tensor, "learning rate");
}

}  // namespace

void StepCall::add(ParamUpdate update, const AdamWHyper& hyper) {
  if (update.name.empty()) update.name = default_name(update.param, update.index);
  check_same_place(update, hyper);
  TORCH_CHECK_VALUE(!hyper.lr_tensor.defined() || update.counter.defined(), "smet: the learning rate of '",
                    update.name, "' is a tensor that the device is to read, which needs capturable(true)");
  const std::int64_t step = update.step + 1;
  if (update.counter.defined()) {
    add_device_clock(update, hyper);
  } else {
    const CohortClock clock{step, births_of(update)};
    tables_.push_back(cohort_tables_.table(clock, hyper, density_of(update.param), update.name));
  }
  add_moments(update);
  params_.push_back(std::move(update.param));
  grads_.push_back(std::move(update.grad));
  static const at::Tensor no_master = at::empty({0}, at::kShort);
  if (!update.master_low.defined()) update.master_low = no_master;
  master_lows_.push_back(std::move(update.master_low));
  static const at::Tensor no_cohort = at::empty({0}, at::kByte);
  if (!update.cohort.defined()) update.cohort = no_cohort;
  cohorts_.push_back(std::move(update.cohort));
  beta1_.push_back(hyper.beta1);
  beta2_.push_back(hyper.beta2);
  eps_.push_back(hyper.eps);
  l2_.push_back(hyper.coupled_weight_decay ? hyper.weight_decay : 0);
  maximize_.push_back(hyper.maximize);
  rounding_keys_.push_back(hyper.stochastic_rounding ? rounding_key(hyper.seed, update.index, step) : 0);
  moment_keys_.push_back(moment_key(hyper.seed, update.index, step));
  names_.push_back(update.name);
}

void StepCall::add_moments(const ParamUpdate& update) {
  const Moments& moments = update.moments;
  exp_avgs_.push_back(moments.exp_avg);
  exp_avg_sqs_.push_back(moments.exp_avg_sq);
  static const at::Tensor no_scale = at::empty({0}, at::kFloat);
  static const at::Tensor no_rank = at::empty({0}, at::kInt);
  if (!moments.block8()) {
    scales_.push_back(no_scale);
    scale_sqs_.push_back(no_scale);
    ranks_.push_back(no_rank);
    cols_.push_back(0);
    return;
  }
  TORCH_CHECK_VALUE(moments.exp_avg_scale.defined() && moments.exp_avg_sq_scale.defined(),
                    "smet: the 8-bit moments of '", update.name, "' have no scales");
  const MomentMatrix matrix = moment_matrix(update.param);
  TORCH_CHECK_VALUE(matrix.rank.defined() || !update.cohort.defined(), "smet: the positions of '",
                    update.name,
                    "' are unknown, which own the blocks of its 8-bit moments; nothing was changed. Keep the "
                    "layer alive, or register its values with their rank");
  scales_.push_back(moments.exp_avg_scale);
  scale_sqs_.push_back(moments.exp_avg_sq_scale);
  ranks_.push_back(matrix.rank.defined() ? matrix.rank : no_rank);
  cols_.push_back(matrix.cols);
}

void StepCall::add_device_clock(const ParamUpdate& update, const AdamWHyper& hyper) {
  TORCH_CHECK_VALUE(!hyper.age_schedule.custom, "smet: the age_schedule of '", update.name,
                    "' is a function, which a device cannot call; with capturable expected warmup, boost and "
                    "boost_tau, or \"none\"");
  const double density = density_of(update.param);
  TORCH_CHECK_VALUE(density > 0 && density <= 1, "smet: '", update.name, "' has density ", density,
                    "; expected 0 < density <= 1");
  static const at::Tensor none = at::empty({0});
  clocks_.steps.push_back(update.counter);
  clocks_.births.push_back(update.births.defined() ? update.births : none);
  clocks_.lrs.push_back(hyper.lr_tensor.defined() ? hyper.lr_tensor : none);
  clocks_.lr.push_back(hyper.lr);
  clocks_.lr_scale.push_back(std::pow(density, -hyper.density_scaling));
  clocks_.weight_decay.push_back(hyper.coupled_weight_decay ? 0 : hyper.weight_decay);
  clocks_.warmup.push_back(hyper.age_schedule.warmup);
  clocks_.boost.push_back(hyper.age_schedule.boost);
  clocks_.boost_tau.push_back(hyper.age_schedule.boost_tau);
  clocks_.local_age.push_back(hyper.local_age);
  clocks_.seeds.push_back(static_cast<std::int64_t>(hyper.seed));
  clocks_.indices.push_back(update.index);
}

at::Tensor StepCall::derive_tables() {
  const DeviceClocks& c = clocks_;
  auto [rows, keys] = cohort_table(c.steps, c.births, c.lrs, c.lr, c.lr_scale, c.weight_decay, beta1_, beta2_,
                                   c.warmup, c.boost, c.boost_tau, c.local_age, c.seeds, c.indices, names_);
  std::int64_t first = 0;
  for (const at::Tensor& births : c.births) {
    const std::int64_t count = births.numel() == 0 ? 1 : kCohortIds;
    tables_.push_back(rows.narrow(0, first, count));
    first += count;
  }
  return keys;
}

void StepCall::run(bool check_finite, const std::optional<at::Tensor>& found_inf,
                   const std::optional<at::Tensor>& grad_scale) {
  if (params_.empty()) return;
  const bool on_device = !clocks_.steps.empty();
  std::optional<at::Tensor> keys;
  if (on_device) keys = derive_tables();
  adamw_step_(params_, grads_, exp_avgs_, exp_avg_sqs_, scales_, scale_sqs_, master_lows_, ranks_, cols_,
              cohorts_, tables_, beta1_, beta2_, eps_, l2_, maximize_, rounding_keys_, names_, check_finite,
              moment_keys_, found_inf, grad_scale, keys);
  if (on_device) count_steps_(clocks_.steps, found_inf);
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
