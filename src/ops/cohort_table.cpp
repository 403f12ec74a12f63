// SPDX-License-Identifier: BSD-3-Clause
// smet::cohort_table: the tables and keys of one AdamW step from counters that lie where the parameters do
// (kernels/cohort_table.h has the formula). smet::count_steps_: those counters, one further.
#include "src/ops/cohort_table.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "src/ops/kernel_glue.h"

namespace smet::ops {
namespace {

using at::Tensor;

constexpr int64_t kCohortIds = 256;
constexpr int64_t kRowColumns = sizeof(kernels::CohortRow) / sizeof(double);

void check_lengths(const CohortTableCall& call) {
  const auto check = [&](size_t got, const char* list) {
    TORCH_CHECK_VALUE(got == call.steps.size(), "smet::cohort_table: ", list, " has ", got,
                      " entries; expected one per parameter, ", call.steps.size());
  };
  check(call.births.size(), "births");
  check(call.lrs.size(), "lrs");
  check(call.lr.size(), "lr");
  check(call.lr_scale.size(), "lr_scale");
  check(call.weight_decay.size(), "weight_decay");
  check(call.beta1.size(), "beta1");
  check(call.beta2.size(), "beta2");
  check(call.warmup.size(), "warmup");
  check(call.boost.size(), "boost");
  check(call.boost_tau.size(), "boost_tau");
  check(call.local_age.size(), "local_age");
  check(call.seeds.size(), "seeds");
  check(call.indices.size(), "indices");
  check(call.names.size(), "names");
}

void check_step(const Tensor& step, const c10::Device& device, const std::string& name, const char* op) {
  TORCH_CHECK_VALUE(step.scalar_type() == at::kLong && step.numel() == 1 && step.device() == device,
                    "smet::", op, ": the step of '", name, "' is ", step.scalar_type(), " ", step.sizes(),
                    " on ", step.device(), "; expected an int64 scalar on ", device);
}

void check_parameter(const CohortTableCall& call, size_t i, const std::string& name) {
  const c10::Device device = call.steps[0].device();
  check_step(call.steps[i], device, name, "cohort_table");
  const Tensor& births = call.births[i];
  TORCH_CHECK_VALUE(births.numel() == 0 ||
                        (births.scalar_type() == at::kLong && births.dim() == 1 &&
                         births.numel() == kCohortIds && births.is_contiguous() && births.device() == device),
                    "smet::cohort_table: the births of '", name, "' are ", births.scalar_type(), " ",
                    births.sizes(), " on ", births.device(), "; expected contiguous int64 [256] on ", device,
                    ", where the step is");
  const Tensor& lr = call.lrs[i];
  if (lr.numel() == 0) return;
  TORCH_CHECK_TYPE(lr.scalar_type() == at::kFloat || lr.scalar_type() == at::kDouble,
                   "smet::cohort_table: the learning rate of '", name, "' has dtype ", lr.scalar_type(),
                   "; expected float32 or float64");
  TORCH_CHECK_VALUE(lr.numel() == 1 && lr.device() == device, "smet::cohort_table: the learning rate of '",
                    name, "' has shape ", lr.sizes(), " on ", lr.device(), "; expected one element on ",
                    device, ", where every step reads it");
}

kernels::CohortTable describe(const CohortTableCall& call, size_t i) {
  const Tensor& lr = call.lrs[i];
  return {.step = call.steps[i].const_data_ptr<int64_t>(),
          .births = call.births[i].numel() == 0 ? nullptr : call.births[i].const_data_ptr<int64_t>(),
          .lr = lr.numel() == 0 ? nullptr : lr.const_data_ptr(),
          .lr_dtype = lr.scalar_type() == at::kDouble ? kernels::DType::f64 : kernels::DType::f32,
          .lr_value = call.lr[i],
          .lr_scale = call.lr_scale[i],
          .weight_decay = call.weight_decay[i],
          .ages = {.beta1 = call.beta1[i],
                   .beta2 = call.beta2[i],
                   .warmup = call.warmup[i],
                   .boost = call.boost[i],
                   .boost_tau = call.boost_tau[i],
                   .local_age = call.local_age[i]},
          .seed = static_cast<uint64_t>(call.seeds[i]),
          .index = call.indices[i],
          .rows = nullptr,
          .keys = nullptr};
}

}  // namespace

std::tuple<Tensor, Tensor> cohort_table_with(CohortTableKernel kernel, const CohortTableCall& call) {
  check_lengths(call);
  std::vector<kernels::CohortTable> tables;
  tables.reserve(call.steps.size());
  int64_t all_rows = 0;
  for (size_t i = 0; i < call.steps.size(); ++i) {
    check_parameter(call, i, call.names[i]);
    tables.push_back(describe(call, i));
    all_rows += tables.back().births == nullptr ? 1 : kCohortIds;
  }
  const auto options = call.steps.empty() ? at::TensorOptions() : call.steps[0].options();
  Tensor rows = at::empty({all_rows, kRowColumns}, options.dtype(at::kDouble));
  Tensor keys = at::empty({static_cast<int64_t>(tables.size()), 2}, options.dtype(at::kLong));
  auto* row = reinterpret_cast<kernels::CohortRow*>(rows.mutable_data_ptr<double>());
  auto* key = reinterpret_cast<kernels::StepKeys*>(keys.mutable_data_ptr<int64_t>());
  for (kernels::CohortTable& table : tables) {
    table.rows = row;
    table.keys = key++;
    row += table.births == nullptr ? 1 : kCohortIds;
  }
  check_status(kernel({tables.data(), static_cast<int64_t>(tables.size())}), "cohort_table");
  return {rows, keys};
}

void count_steps_with(CountStepsKernel kernel, at::TensorList steps, const std::optional<Tensor>& found_inf) {
  if (steps.empty()) return;
  const c10::Device device = steps[0].device();
  std::vector<int64_t*> counters;
  counters.reserve(steps.size());
  for (const Tensor& step : steps) {
    check_step(step, device, "parameter " + std::to_string(counters.size()), "count_steps_");
    counters.push_back(step.mutable_data_ptr<int64_t>());
  }
  TORCH_CHECK_VALUE(!found_inf.has_value() || (found_inf->scalar_type() == at::kFloat &&
                                               found_inf->numel() == 1 && found_inf->device() == device),
                    "smet::count_steps_: found_inf is not one float32 on ", device, ", where the steps are");
  check_status(kernel({counters.data(), static_cast<int64_t>(counters.size()),
                       found_inf.has_value() ? found_inf->const_data_ptr<float>() : nullptr}),
               "count_steps_");
  for (const Tensor& step : steps) step.unsafeGetTensorImpl()->bump_version();
}

namespace {

// On the CPU the contents can be looked at too: births that belong to no run, and rates that are no numbers.
void check_contents(const CohortTableCall& call) {
  for (size_t i = 0; i < call.steps.size(); ++i) {
    if (call.lrs[i].numel() == 1) {
      const auto lr = call.lrs[i].item<double>();
      TORCH_CHECK_VALUE(std::isfinite(lr), "smet: the learning rate of '", std::string(call.names[i]),
                        "' is ", lr, "; nothing was changed");
    }
    if (call.births[i].numel() == 0) continue;
    const auto step = call.steps[i].item<int64_t>() + 1;
    const auto* births = call.births[i].const_data_ptr<int64_t>();
    for (int64_t id = 0; id < kCohortIds; ++id) {
      TORCH_CHECK_VALUE(births[id] < step && births[id] >= (id == 0 ? 0 : -1), "smet: cohort ", id, " of '",
                        std::string(call.names[i]), "' was born at step ", births[id], ", not in 0 to ",
                        step - 1,
                        ", the steps before this one: the optimizer state does not belong to this run");
    }
  }
}

std::tuple<Tensor, Tensor> cohort_table_cpu(at::TensorList steps, at::TensorList births, at::TensorList lrs,
                                            at::ArrayRef<double> lr, at::ArrayRef<double> lr_scale,
                                            at::ArrayRef<double> weight_decay, at::ArrayRef<double> beta1,
                                            at::ArrayRef<double> beta2, at::ArrayRef<double> warmup,
                                            at::ArrayRef<double> boost, at::ArrayRef<double> boost_tau,
                                            const c10::List<bool>& local_age, at::IntArrayRef seeds,
                                            at::IntArrayRef indices, const c10::List<std::string>& names) {
  const CohortTableCall call{steps,  births, lrs,       lr,        lr_scale, weight_decay, beta1, beta2,
                             warmup, boost,  boost_tau, local_age, seeds,    indices,      names};
  return cohort_table_with(
      [&](const kernels::CohortTableArgs& args) {
        check_contents(call);
        return kernels::reference::cohort_table(executor(1), args);
      },
      call);
}

void count_steps_cpu(at::TensorList steps, const std::optional<Tensor>& found_inf) {
  count_steps_with(
      [](const kernels::CountStepsArgs& args) { return kernels::reference::count_steps(executor(1), args); },
      steps, found_inf);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smet, m) {
  m.def(
      "cohort_table(Tensor[] steps, Tensor[] births, Tensor[] lrs, float[] lr, float[] lr_scale, "
      "float[] weight_decay, float[] beta1, float[] beta2, float[] warmup, float[] boost, float[] boost_tau, "
      "bool[] local_age, int[] seeds, int[] indices, str[] names) -> (Tensor rows, Tensor keys)");
  m.def("count_steps_(Tensor(a!)[] steps, Tensor? found_inf=None) -> ()");
}

TORCH_LIBRARY_IMPL(smet, CPU, m) {
  m.impl("cohort_table", &cohort_table_cpu);
  m.impl("count_steps_", &count_steps_cpu);
}

}  // namespace smet::ops
