// SPDX-License-Identifier: BSD-3-Clause
// smet::cohort_table and smet::count_steps_ for any device: checks, with the device's kernels.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include <optional>
#include <string>
#include <tuple>

#include "kernels/cohort_table.h"

namespace smet::ops {

struct CohortTableCall {
  at::TensorList steps;   // int64 scalars: updates so far
  at::TensorList births;  // int64 [256]; [0] for a dense parameter
  at::TensorList lrs;     // one float32 or float64; [0]: the number in `lr`
  at::ArrayRef<double> lr, lr_scale, weight_decay, beta1, beta2, warmup, boost, boost_tau;
  const c10::List<bool>& local_age;
  at::IntArrayRef seeds, indices;
  const c10::List<std::string>& names;
};

using CohortTableKernel = c10::function_ref<kernels::Status(const kernels::CohortTableArgs& args)>;
using CountStepsKernel = c10::function_ref<kernels::Status(const kernels::CountStepsArgs& args)>;

// float64 rows (decay, step_size, bc2_sqrt), 256 or one for each parameter, one after the other, and int64
// keys [parameters, 2], for adamw_step_ as it takes them.
std::tuple<at::Tensor, at::Tensor> cohort_table_with(CohortTableKernel kernel, const CohortTableCall& call);

void count_steps_with(CountStepsKernel kernel, at::TensorList steps,
                      const std::optional<at::Tensor>& found_inf);

}  // namespace smet::ops
