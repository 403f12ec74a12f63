// SPDX-License-Identifier: BSD-3-Clause
// The arithmetic of adamw_step.h for one element, and how a bf16 number is rounded at random.
#pragma once

#include "kernels/adamw_step.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/master_weight.h"
#include "kernels/rounding_hash.h"

namespace smet::kernels::cuda {

__device__ __forceinline__ float square_root(float x) {
  return sqrtf(x);
}
__device__ __forceinline__ double square_root(double x) {
  return sqrt(x);
}

// A cohort's row in the compute type; at[3] is unused and makes it one 16-byte access.
template <typename Compute>
struct alignas(16) StepRow {
  Compute decay, step, inverse_bc2_sqrt, unused;  // step = -step_size
};

// A tensor's numbers in the compute type.
template <typename Compute>
struct StepScalars {
  Compute beta2, one_minus_beta1, one_minus_beta2, eps, l2, sign;

  static StepScalars of(const AdamWTensor& tensor) {
    return {static_cast<Compute>(tensor.beta2),     static_cast<Compute>(1 - tensor.beta1),
            static_cast<Compute>(1 - tensor.beta2), static_cast<Compute>(tensor.eps),
            static_cast<Compute>(tensor.l2),        static_cast<Compute>(tensor.maximize ? -1 : 1)};
  }
};

// The rows of one tensor, converted once per block. Every thread of the block must call.
template <typename Compute>
__device__ __forceinline__ void load_rows(const CohortRow* cohorts, int count, StepRow<Compute>* rows) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    rows[i] = {static_cast<Compute>(cohorts[i].decay), static_cast<Compute>(-cohorts[i].step_size),
               static_cast<Compute>(1 / cohorts[i].bc2_sqrt), Compute{0}};
  }
  __syncthreads();
}

// The gradient as the moments see it: divided by the scale, negated, with coupled decay.
template <typename Compute>
__device__ __forceinline__ Compute effective_grad(Compute grad, Compute param, const float* scale,
                                                  const StepScalars<Compute>& scalars) {
  if (scale != nullptr) grad = grad / static_cast<Compute>(*scale);
  grad = grad * scalars.sign;
  if (scalars.l2 != 0) grad = grad + scalars.l2 * param;
  return grad;
}

template <typename Compute>
__device__ __forceinline__ void update_moments(Compute grad, const StepScalars<Compute>& scalars, Compute* m,
                                               Compute* v) {
  *m = *m + (grad - *m) * scalars.one_minus_beta1;
  *v = *v * scalars.beta2 + (scalars.one_minus_beta2 * grad) * grad;
}

template <typename Compute>
__device__ __forceinline__ Compute updated_param(Compute param, Compute m, Compute root_v,
                                                 const StepRow<Compute>& row,
                                                 const StepScalars<Compute>& scalars) {
  return param + ((row.step * m) / (root_v * row.inverse_bc2_sqrt + scalars.eps) - row.decay * param);
}

// bf16 of x with 16 random bits: up or down with probability by distance; non-finite x to nearest.
__device__ __forceinline__ std::uint16_t stochastic_bf16(float x, std::uint32_t noise) {
  const std::uint32_t bits = float_bits(x);
  const bool finite = (bits & 0x7F800000U) != 0x7F800000U;
  return finite ? static_cast<std::uint16_t>((bits + (noise & 0xFFFFU)) >> 16) : f32_to_bf16(x);
}

// What a parameter stands for, given the low half of its master; 0 where it has none, and then it is itself.
template <typename Type>
__device__ __forceinline__ typename Type::Compute weight_of(typename Type::Storage param, std::int16_t low) {
  if constexpr (std::is_same_v<Type, Bf16>) {
    return master_weight(param, low);
  } else {
    return Type::load(param);
  }
}

// How a result becomes a parameter.
enum class Rounding : std::uint8_t { nearest, stochastic, master };

template <typename Type>
__device__ __forceinline__ typename Type::Storage stored_param(typename Type::Compute x, Rounding rounding,
                                                               RunHash hash, int lane, std::int16_t* low) {
  if constexpr (std::is_same_v<Type, Bf16>) {
    if (rounding == Rounding::stochastic) {
      return stochastic_bf16(x, hash32(hash, lane));
    }
    if (rounding == Rounding::master) {
      *low = master_low(x);
      return master_high(x);
    }
  }
  return Type::store(x);
}

}  // namespace smet::kernels::cuda
