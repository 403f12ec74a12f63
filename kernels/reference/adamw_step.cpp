// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_step.h"

#include <cmath>

#include "kernels/reference/elements.h"
#include "kernels/rounding_hash.h"

namespace smet::kernels::reference {
namespace {

// A bf16 result with stochastic rounding: adds 16 random bits below the kept ones, then truncates.
void store_param(const AdamWTensor& tensor, std::int64_t i, double x) {
  const auto rounded = static_cast<float>(x);
  if (tensor.param_dtype != DType::bf16 || !tensor.stochastic_rounding || !std::isfinite(rounded)) {
    store_weight(tensor.param, tensor.master_low, tensor.param_dtype, i, x);
    return;
  }
  const std::uint32_t noise = hash32(tensor.rounding_key, static_cast<std::uint64_t>(i)) & 0xFFFFU;
  static_cast<std::uint16_t*>(tensor.param)[i] =
      static_cast<std::uint16_t>((float_bits(rounded) + noise) >> 16);
}

// Every expression in double, stored once in the compute type: what the fast kernel's roundings are measured
// against.
void update(const AdamWTensor& tensor, std::int64_t i) {
  const DType compute = tensor.param_dtype == DType::f64 ? DType::f64 : DType::f32;
  const CohortRow& row = tensor.cohorts[tensor.cohort == nullptr ? 0 : tensor.cohort[i]];
  const double param = load_weight(tensor.param, tensor.master_low, tensor.param_dtype, i);
  double grad = load(tensor.grad, tensor.grad_dtype, i);
  if (tensor.maximize) grad = -grad;
  if (tensor.l2 != 0) grad += tensor.l2 * param;

  double m = load(tensor.exp_avg, compute, i);
  double v = load(tensor.exp_avg_sq, compute, i);
  m += (grad - m) * (1 - tensor.beta1);
  v = v * tensor.beta2 + (1 - tensor.beta2) * grad * grad;
  store(tensor.exp_avg, compute, i, m);
  store(tensor.exp_avg_sq, compute, i, v);
  store_param(tensor, i,
              param - (row.step_size * m / (std::sqrt(v) / row.bc2_sqrt + tensor.eps) + row.decay * param));
}

}  // namespace

Status adamw_step(const Executor& /*executor*/, const AdamWStepArgs& args) {
  for (std::int64_t t = 0; t < args.count; ++t) {
    const Status status = check_tensor(args.tensors[t]);
    if (status != Status::ok) return status;
  }
  for (std::int64_t t = 0; t < args.count; ++t) {
    for (std::int64_t i = 0; i < args.tensors[t].size; ++i) update(args.tensors[t], i);
  }
  return Status::ok;
}

std::int64_t first_nonfinite(const Executor& /*executor*/, const Buffer* buffers, std::int64_t count) {
  for (std::int64_t b = 0; b < count; ++b) {
    for (std::int64_t i = 0; i < buffers[b].size; ++i) {
      if (!std::isfinite(load(buffers[b].data, buffers[b].dtype, i))) return b;
    }
  }
  return -1;
}

}  // namespace smet::kernels::reference
