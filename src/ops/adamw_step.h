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
  // The cohort tables of `args` are in host memory; with `keys`, they and these are where the parameters are.
  c10::function_ref<kernels::Status(const kernels::AdamWStepArgs& args)> step;
  c10::function_ref<kernels::Status(const kernels::AdamWCompactArgs& args)> compact;  // bf16, 8-bit moments
};

// What a GradScaler decided, float32 scalars on the parameters' device. found_inf: not 0, and nothing is
// written. grad_scale: every gradient is divided by it first; the gradients themselves stay as they are.
struct GradScaling {
  std::optional<at::Tensor> found_inf, grad_scale;

  // Throws unless both, where they are given, are such scalars.
  void check(at::TensorList params) const;
};

// The operator's arguments, one entry per parameter in each list. The three lists of block8 and `cols` may be
// empty when no moments are 8-bit ones; so may master_lows where there are none, and the keys where nothing
// is rounded at random.
struct AdamWArguments {
  at::TensorList params, grads, exp_avgs, exp_avg_sqs;
  // Scales [rows, blocks_per_row], empty for other formats; ranks: the layer's, empty for a dense parameter;
  // cols: its columns (adamw_compact.h).
  at::TensorList exp_avg_scales, exp_avg_sq_scales;
  at::TensorList master_lows;  // int16, like the parameter; empty for one without a master (master_weight.h)
  at::TensorList ranks;
  at::IntArrayRef cols;
  at::TensorList cohorts, tables;
  at::ArrayRef<double> beta1, beta2, eps, l2;
  const c10::List<bool>& maximize;
  at::IntArrayRef rounding_keys;
  const c10::List<std::string>& names;
  bool check_finite;
  at::IntArrayRef moment_keys;
  const std::optional<at::Tensor>& keys;

  // fp64 parameters have fp64 moments; all others fp32 ones, bf16 ones, or int8 and uint8 codes.
  bool block8(size_t i) const { return exp_avgs[i].scalar_type() == at::kChar; }
  bool compact(size_t i) const {
    return block8(i) ||
           (exp_avgs[i].scalar_type() == at::kBFloat16 && params[i].scalar_type() != at::kDouble);
  }
  bool master(size_t i) const { return !master_lows.empty() && master_lows[i].numel() > 0; }
};

void adamw_step_with(const AdamWKernels& kernels, const AdamWArguments& args);

}  // namespace smet::ops
