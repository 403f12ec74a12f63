// SPDX-License-Identifier: BSD-3-Clause
// adamw_step: one fused pass of AdamW over every tensor of a model, ages looked up per weight.
#pragma once

#include "kernels/types.h"

namespace smet::kernels {

inline constexpr std::int64_t kMaxCohorts = 256;  // of one tensor: ids are bytes

// One row per birth cohort, computed by the host in double for the current step (README, "The
// method"):
//   a = age of the cohort, lr_w = lr * density^-p * warm(a)
struct CohortRow {
  double decay;      // lr_w * weight_decay (decoupled decay), else 0
  double step_size;  // lr_w / (1 - beta1^a)
  double bc2_sqrt;   // sqrt(1 - beta2^a)
};

// Keys of one tensor's random bits at one step.
struct StepKeys {
  std::uint64_t rounding, moments;
};

// For every element i, with row = cohorts[cohort ? cohort[i] : 0], in this order (torch's single-tensor
// Adam):
//   g     = (maximize ? -grad : grad) + l2 * param              l2 != 0 is coupled decay (Adam, not AdamW)
//   m     = m + (g - m) * (1 - beta1)
//   v     = v * beta2 + ((1 - beta2) * g) * g
//   param = param + ((-row.step_size * m) / (sqrt(v) * (1 / row.bc2_sqrt) + eps) - row.decay * param)
// The decay joins the update before it meets the parameter: torch's param * (1 - lr * weight_decay) rounds
// the factor, which in fp32 is a relative error of up to 3e-8 in the same direction every step (1.4e-5 after
// 1,000). The compute type is f64 for f64 params, else f32; every scalar ((1 - beta1), (1 - beta2), decay,
// -step_size, 1 / bc2_sqrt, eps, l2) is computed in double and rounded to it once; each operation above is
// rounded on its own (no FMA), so all instruction sets give the same bits. torch divides by bc2_sqrt, which
// is as accurate and a third slower where memory is not the limit. Moments have the compute type. bf16 params
// with stochastic_rounding: the fp32 result x becomes the upper or lower bf16 neighbour with probability by
// distance: bf16((bits(x) + (hash32(key, i) & 0xffff)) >> 16) with hash32 of rounding_hash.h, key =
// rounding_key of the tensor; non-finite x is rounded to nearest instead. bf16 params with master_low:
// `param` in all lines above is the float32 master that the two hold together (master_weight.h), which is not
// rounded at all. Otherwise rounding is to nearest even.
struct AdamWTensor {
  void* param;
  const void* grad;
  void* exp_avg;
  void* exp_avg_sq;
  const std::uint8_t* cohort;  // null: row 0 for every element
  std::int64_t size;
  DType param_dtype;
  DType grad_dtype;  // equal to param_dtype
  const CohortRow* cohorts;
  std::int64_t cohort_rows;  // 1 to kMaxCohorts, else invalid_argument; every id in `cohort` is below it
  double beta1, beta2, eps, l2;
  bool maximize;
  bool stochastic_rounding;
  std::uint64_t rounding_key;
  const StepKeys* device_keys = nullptr;  // cuda: where set, read by the kernel in place of rounding_key and
                                          // of CompactMoments::key, which a CUDA graph would hold fast
  std::int16_t* master_low = nullptr;  // [size], the masters' low halves; null: none. Only with bf16 params
                                       // (else unsupported_dtype), and not with stochastic_rounding
                                       // (invalid_argument)
};

// What every kernel asks of a tensor before the first write.
constexpr Status check_tensor(const AdamWTensor& tensor) {
  if (tensor.grad_dtype != tensor.param_dtype) return Status::unsupported_dtype;
  if (tensor.master_low != nullptr && tensor.param_dtype != DType::bf16) return Status::unsupported_dtype;
  const bool rounds_nothing = tensor.master_low != nullptr && tensor.stochastic_rounding;
  if (tensor.cohort_rows < 1 || tensor.cohort_rows > kMaxCohorts || rounds_nothing)
    return Status::invalid_argument;
  return Status::ok;
}

struct AdamWStepArgs {
  const AdamWTensor* tensors;
  std::int64_t count;
};

// Index of the first tensor whose gradient holds NaN or infinity, or -1.
struct Buffer {
  const void* data;
  std::int64_t size;
  DType dtype;
};

namespace reference {
Status adamw_step(const Executor& executor, const AdamWStepArgs& args);
std::int64_t first_nonfinite(const Executor& executor, const Buffer* buffers, std::int64_t count);
}  // namespace reference
namespace cpu {
Status adamw_step(const Executor& executor, const AdamWStepArgs& args);
std::int64_t first_nonfinite(const Executor& executor, const Buffer* buffers, std::int64_t count);
}  // namespace cpu
namespace cuda {

// What a GradScaler decides on the device; each pointer may be null.
struct StepControl {
  const float* found_inf;   // not 0: nothing is written
  const float* grad_scale;  // every gradient is divided by it, in the compute type, before anything else
};

// The tensors' descriptions are read on the host, before this returns; their `cohorts` are in device memory.
Status adamw_step(Stream stream, const AdamWStepArgs& args, const StepControl& control);

// *first = what the others return.
Status first_nonfinite(Stream stream, const Buffer* buffers, std::int64_t count, std::int64_t* first);

}  // namespace cuda

}  // namespace smet::kernels
