// SPDX-License-Identifier: BSD-3-Clause
// smet::adamw_step_ for any device: checks and layouts, with the device's kernels.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include <optional>
#include <string>

#include "kernels/adamw_compact.h"

namespace smet::ops {

struct AdamWKernels {
  c10::function_ref<int64_t(const kernels::Buffer* grads, int64_t count)> first_nonfinite;
  // The cohort tables of `args` are in host memory.
  c10::function_ref<kernels::Status(const kernels::AdamWStepArgs& args)> step;
  c10::function_ref<kernels::Status(const kernels::AdamWCompactArgs& args)> compact;  // bf16 moments
};

// What a GradScaler decided, float32 scalars on the parameters' device. found_inf: not 0, and nothing is
// written. grad_scale: every gradient is divided by it first; the gradients themselves stay as they are.
struct GradScaling {
  std::optional<at::Tensor> found_inf, grad_scale;

  // Throws unless both, where they are given, are such scalars.
  void check(at::TensorList params) const;
};

void adamw_step_with(const AdamWKernels& kernels, at::TensorList params, at::TensorList grads,
                     at::TensorList exp_avgs, at::TensorList exp_avg_sqs, at::TensorList cohorts,
                     at::TensorList tables, at::ArrayRef<double> beta1, at::ArrayRef<double> beta2,
                     at::ArrayRef<double> eps, at::ArrayRef<double> l2, const c10::List<bool>& maximize,
                     at::IntArrayRef rounding_keys, const c10::List<std::string>& names, bool check_finite,
                     at::IntArrayRef moment_keys);

}  // namespace smet::ops
