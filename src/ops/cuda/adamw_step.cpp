// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/adamw_step.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <unordered_map>
#include <vector>

#include "src/ops/cuda/device.h"
#include "src/ops/cuda/operators.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops::cuda {
namespace {

// The step's cohort tables on the device, in one copy: layers with the same table share it.
class DeviceTables {
 public:
  DeviceTables(const kernels::AdamWStepArgs& args, c10::Device device) {
    int64_t rows = 0;
    for (int64_t i = 0; i < args.count; ++i) {
      const kernels::AdamWTensor& tensor = args.tensors[i];
      if (first_row_.try_emplace(tensor.cohorts, rows).second) rows += tensor.cohort_rows;
    }
    const at::Tensor host = at::empty({rows * kRowBytes}, at::TensorOptions(at::kByte));
    for (int64_t i = 0; i < args.count; ++i) {
      const kernels::AdamWTensor& tensor = args.tensors[i];
      std::memcpy(host.mutable_data_ptr<uint8_t>() + first_row_.at(tensor.cohorts) * kRowBytes,
                  tensor.cohorts, static_cast<size_t>(tensor.cohort_rows * kRowBytes));
    }
    device_ = upload(host, device);
  }

  // The tensors with their tables' places on the device.
  std::vector<kernels::AdamWTensor> of(const kernels::AdamWStepArgs& args) const {
    const auto* rows = static_cast<const kernels::CohortRow*>(device_.const_data_ptr());
    std::vector<kernels::AdamWTensor> tensors(args.tensors, args.tensors + args.count);
    for (kernels::AdamWTensor& tensor : tensors) tensor.cohorts = rows + first_row_.at(tensor.cohorts);
    return tensors;
  }

 private:
  static constexpr int64_t kRowBytes = sizeof(kernels::CohortRow);
  std::unordered_map<const kernels::CohortRow*, int64_t> first_row_;
  at::Tensor device_;
};

}  // namespace

// With check_finite the step waits for the device once, to name the tensor; without, it never does. What a
// GradScaler decided is read by the kernels.
void adamw_step_(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs,
                 at::TensorList exp_avg_sqs, at::TensorList exp_avg_scales, at::TensorList exp_avg_sq_scales,
                 at::TensorList master_lows, at::TensorList ranks, at::IntArrayRef cols,
                 at::TensorList cohorts, at::TensorList tables, at::ArrayRef<double> beta1,
                 at::ArrayRef<double> beta2, at::ArrayRef<double> eps, at::ArrayRef<double> l2,
                 const c10::List<bool>& maximize, at::IntArrayRef rounding_keys,
                 const c10::List<std::string>& names, bool check_finite, at::IntArrayRef moment_keys,
                 const OptionalTensor& found_inf, const OptionalTensor& grad_scale,
                 const OptionalTensor& keys) {
  if (params.empty()) return;
  const OnDevice device(params[0]);
  for (const Tensor& param : params) {
    TORCH_CHECK_VALUE(param.device() == params[0].device(), "smet::adamw_step_: parameters are on ",
                      params[0].device(), " and ", param.device(), "; call it once for each device");
  }
  GradScaling{found_inf, grad_scale}.check(params);
  const auto scalar = [](const OptionalTensor& tensor) {
    return tensor.has_value() ? tensor->const_data_ptr<float>() : nullptr;
  };
  const kernels::cuda::StepControl control{scalar(found_inf), scalar(grad_scale)};
  const auto first_nonfinite = [&](const kernels::Buffer* buffers, int64_t count) {
    const Tensor first = at::empty({}, params[0].options().dtype(at::kLong).requires_grad(false));
    check_status(
        kernels::cuda::first_nonfinite(device.stream(), buffers, count, first.mutable_data_ptr<int64_t>()),
        "adamw_step_");
    return first.item<int64_t>();
  };
  const auto step = [&](const kernels::AdamWStepArgs& args) {
    if (keys.has_value()) return kernels::cuda::adamw_step(device.stream(), args, control);
    const DeviceTables on_device(args, params[0].device());
    const std::vector<kernels::AdamWTensor> tensors = on_device.of(args);
    return kernels::cuda::adamw_step(device.stream(), {tensors.data(), args.count}, control);
  };
  const auto compact = [&](const kernels::AdamWCompactArgs& args) {
    if (keys.has_value()) return kernels::cuda::adamw_compact(device.stream(), args, control);
    const DeviceTables on_device({args.tensors, args.count}, params[0].device());
    const std::vector<kernels::AdamWTensor> tensors = on_device.of({args.tensors, args.count});
    return kernels::cuda::adamw_compact(device.stream(), {tensors.data(), args.moments, args.count}, control);
  };
  adamw_step_with({first_nonfinite, step, compact},
                  {params,       grads,       exp_avgs, exp_avg_sqs, exp_avg_scales, exp_avg_sq_scales,
                   master_lows,  ranks,       cols,     cohorts,     tables,         beta1,
                   beta2,        eps,         l2,       maximize,    rounding_keys,  names,
                   check_finite, moment_keys, keys});
}

}  // namespace smet::ops::cuda
