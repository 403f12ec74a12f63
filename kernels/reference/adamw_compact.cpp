// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_compact.h"

#include <algorithm>
#include <cmath>

#include "kernels/block8.h"
#include "kernels/reference/elements.h"
#include "kernels/rounding_hash.h"

namespace smet::kernels::reference {
namespace {

struct Moments {
  float m, root_v, v;
};

std::uint32_t noise_of(std::uint64_t key, std::int64_t i) {
  return hash32(key, static_cast<std::uint64_t>(i));
}

// bf16 of x, by 16 random bits.
std::uint16_t stochastic_bf16(float x, std::uint32_t noise) {
  if (!std::isfinite(x)) return f32_to_bf16(x);
  return static_cast<std::uint16_t>((float_bits(x) + (noise & 0xFFFFU)) >> 16);
}

float param_of(const AdamWTensor& tensor, std::int64_t i) {
  return static_cast<float>(load_weight(tensor.param, tensor.master_low, tensor.param_dtype, i));
}

// The two first lines of adamw_step.h's formula.
Moments updated(const AdamWTensor& tensor, std::int64_t i, float m, float v) {
  const float param = param_of(tensor, i);
  auto grad = static_cast<float>(load(tensor.grad, tensor.grad_dtype, i));
  if (tensor.maximize) grad = -grad;
  if (tensor.l2 != 0) grad = grad + static_cast<float>(tensor.l2) * param;
  const float new_m = m + (grad - m) * static_cast<float>(1 - tensor.beta1);
  const float new_v =
      v * static_cast<float>(tensor.beta2) + (static_cast<float>(1 - tensor.beta2) * grad) * grad;
  return {new_m, std::sqrt(new_v), new_v};
}

// The last line.
void move_param(const AdamWTensor& tensor, std::int64_t i, const Moments& moments) {
  const CohortRow& row = tensor.cohorts[tensor.cohort == nullptr ? 0 : tensor.cohort[i]];
  const float param = param_of(tensor, i);
  const float update =
      (static_cast<float>(-row.step_size) * moments.m) /
      (moments.root_v * static_cast<float>(1 / row.bc2_sqrt) + static_cast<float>(tensor.eps));
  const float result = param + (update - static_cast<float>(row.decay) * param);
  if (tensor.param_dtype == DType::bf16 && tensor.stochastic_rounding) {
    static_cast<std::uint16_t*>(tensor.param)[i] = stochastic_bf16(result, noise_of(tensor.rounding_key, i));
  } else {
    store_weight(tensor.param, tensor.master_low, tensor.param_dtype, i, static_cast<double>(result));
  }
}

void step_bf16(const AdamWTensor& tensor, const CompactMoments& compact) {
  auto* m = static_cast<std::uint16_t*>(tensor.exp_avg);
  auto* v = static_cast<std::uint16_t*>(tensor.exp_avg_sq);
  for (std::int64_t i = 0; i < tensor.size; ++i) {
    const Moments moments = updated(tensor, i, bf16_to_f32(m[i]), bf16_to_f32(v[i]));
    move_param(tensor, i, moments);
    const std::uint32_t noise = noise_of(compact.key, i);
    m[i] = stochastic_bf16(moments.m, noise);
    v[i] = stochastic_bf16(moments.v, noise >> 16);
    if (moments.v > 0 && v[i] == 0) v[i] = 1;
  }
}

// The larger one; a NaN is larger than any number.
float larger(float a, float b) {
  return std::isnan(b) || b > a ? b : a;
}

// Weights [begin, end) of one block.
void step_block(const AdamWTensor& tensor, std::uint64_t key, std::int64_t begin, std::int64_t end,
                float* scale, float* scale_sq) {
  auto* m = static_cast<std::uint8_t*>(tensor.exp_avg);
  auto* v = static_cast<std::uint8_t*>(tensor.exp_avg_sq);
  const float old_unit = block8_unit(*scale, kBlock8MaxM);
  const float old_unit_sq = block8_unit(*scale_sq, kBlock8MaxV);
  const auto moments_of = [&](std::int64_t i) {
    const float root = block8_sqrt_v(old_unit_sq, v[i]);
    return updated(tensor, i, block8_m(old_unit, m[i]), root * root);
  };
  *scale = *scale_sq = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    const Moments moments = moments_of(i);
    *scale = larger(*scale, std::fabs(moments.m));
    *scale_sq = larger(*scale_sq, std::fabs(moments.root_v));
  }
  const float per_unit = block8_per_unit(block8_unit(*scale, kBlock8MaxM));
  const float per_unit_sq = block8_per_unit(block8_unit(*scale_sq, kBlock8MaxV));
  for (std::int64_t i = begin; i < end; ++i) {
    const Moments moments = moments_of(i);
    move_param(tensor, i, moments);
    const std::uint32_t noise = noise_of(key, i);
    const float units = block8_units(std::fabs(moments.m), per_unit, kBlock8MaxM);
    const float units_sq = block8_units(moments.root_v, per_unit_sq, kBlock8MaxV);
    const int code = block8_code(units, std::sqrt(units), noise);
    const int code_sq = block8_code(units_sq, std::sqrt(units_sq), noise >> 16);
    m[i] = static_cast<std::uint8_t>(moments.m < 0 ? -code : code);
    v[i] = static_cast<std::uint8_t>(moments.root_v > 0 ? std::max(code_sq, 1) : code_sq);
  }
}

void step_block8(const AdamWTensor& tensor, const CompactMoments& compact) {
  for (std::int64_t block = 0; block < compact.blocks(); ++block) {
    step_block(tensor, compact.key, compact.block_begin(block, tensor.size),
               compact.block_begin(block + 1, tensor.size), compact.scale + block, compact.scale_sq + block);
  }
}

}  // namespace

Status adamw_compact(const Executor& /*executor*/, const AdamWCompactArgs& args) {
  for (std::int64_t t = 0; t < args.count; ++t) {
    const AdamWTensor& tensor = args.tensors[t];
    if (tensor.param_dtype == DType::f64) return Status::unsupported_dtype;
    const bool blocks = args.moments[t].format == MomentFormat::bf16 || args.moments[t].block_segments >= 1;
    const Status status = check_tensor(tensor);
    if (status != Status::ok || !blocks) return status != Status::ok ? status : Status::invalid_argument;
  }
  for (std::int64_t t = 0; t < args.count; ++t) {
    if (args.moments[t].format == MomentFormat::bf16) {
      step_bf16(args.tensors[t], args.moments[t]);
    } else {
      step_block8(args.tensors[t], args.moments[t]);
    }
  }
  return Status::ok;
}

}  // namespace smet::kernels::reference
