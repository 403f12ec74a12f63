// SPDX-License-Identifier: BSD-3-Clause
// Tables and keys of a step whose counters are on the device: what makes a captured step a step of its own at
// every replay. The host reads nothing and hands over nothing that the next step would have different.
#include "src/ops/cohort_table.h"

#include "src/ops/cuda/device.h"
#include "src/ops/cuda/operators.h"

namespace smet::ops::cuda {

std::tuple<Tensor, Tensor> cohort_table(at::TensorList steps, at::TensorList births, at::TensorList lrs,
                                        at::ArrayRef<double> lr, at::ArrayRef<double> lr_scale,
                                        at::ArrayRef<double> weight_decay, at::ArrayRef<double> beta1,
                                        at::ArrayRef<double> beta2, at::ArrayRef<double> warmup,
                                        at::ArrayRef<double> boost, at::ArrayRef<double> boost_tau,
                                        const c10::List<bool>& local_age, at::IntArrayRef seeds,
                                        at::IntArrayRef indices, const c10::List<std::string>& names) {
  const OnDevice device(steps[0]);
  return cohort_table_with(
      [&](const kernels::CohortTableArgs& args) {
        return kernels::cuda::cohort_table(device.stream(), args);
      },
      {steps, births, lrs, lr, lr_scale, weight_decay, beta1, beta2, warmup, boost, boost_tau, local_age,
       seeds, indices, names});
}

void count_steps_(at::TensorList steps, const OptionalTensor& found_inf) {
  if (steps.empty()) return;
  const OnDevice device(steps[0]);
  count_steps_with(
      [&](const kernels::CountStepsArgs& args) { return kernels::cuda::count_steps(device.stream(), args); },
      steps, found_inf);
}

}  // namespace smet::ops::cuda
