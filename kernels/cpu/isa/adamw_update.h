// SPDX-License-Identifier: BSD-3-Clause
// The arithmetic of adamw_step.h on one chunk of one tensor, kGroup elements at a time, for either format of
// the moments. Plain loops that the compiler turns into vectors. Only for kernels/cpu/isa: everything is in
// an unnamed namespace (see isa_kernels.h).
#pragma once

#include "kernels/cpu/isa/cohort_rows.h"
#include "kernels/cpu/isa/moments.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/master_weight.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// How a result becomes a bf16 parameter; master: its low half is kept too (master_weight.h).
enum class Rounding : std::uint8_t { nearest, stochastic, master };

// A storage type: its compute type, and the way there and back.
struct F64 {
  using Storage = double;
  using Compute = double;
  static Compute load(Storage x) { return x; }
  static Storage store(Compute x) { return x; }
  static bool nonfinite(Storage x) { return __builtin_fabs(x) > 0x1.fffffffffffffp1023 || x != x; }
};
struct F32 {
  using Storage = float;
  using Compute = float;
  static Compute load(Storage x) { return x; }
  static Storage store(Compute x) { return x; }
  static bool nonfinite(Storage x) { return (float_bits(x) & 0x7F800000U) == 0x7F800000U; }
};
struct Bf16 {
  using Storage = std::uint16_t;
  using Compute = float;
  static Compute load(Storage x) { return bf16_to_f32(x); }
  static Storage store(Compute x) { return f32_to_bf16(x); }
  static bool nonfinite(Storage x) { return (x & 0x7F80U) == 0x7F80U; }
};
struct F16 {
  using Storage = std::uint16_t;
  using Compute = float;
  static Compute load(Storage x) { return f16_to_f32(x); }
  static Storage store(Compute x) { return f32_to_f16(x); }
  static bool nonfinite(Storage x) { return (x & 0x7C00U) == 0x7C00U; }
};

template <typename Compute>
struct Scalars {
  Compute beta2, one_minus_beta1, one_minus_beta2, eps, l2, sign;

  explicit Scalars(const AdamWChunk& chunk)
      : beta2(static_cast<Compute>(chunk.beta2)),
        one_minus_beta1(static_cast<Compute>(1 - chunk.beta1)),
        one_minus_beta2(static_cast<Compute>(1 - chunk.beta2)),
        eps(static_cast<Compute>(chunk.eps)),
        l2(static_cast<Compute>(chunk.l2)),
        sign(chunk.maximize ? Compute{-1} : Compute{1}) {}
};

// Parameter i; `low` is read only where there are masters.
template <typename Type, Rounding rounding>
[[gnu::always_inline]] inline typename Type::Compute load_weight(
    const typename Type::Storage* __restrict param, const std::int16_t* __restrict low, int i) {
  if constexpr (rounding == Rounding::master) return master_weight(param[i], low[i]);
  return Type::load(param[i]);
}

// The masters' low halves from weight i on.
template <Rounding rounding>
[[gnu::always_inline]] inline std::int16_t* low_at(const AdamWChunk& chunk, std::int64_t i) {
  if constexpr (rounding == Rounding::master) return chunk.master_low + i;
  return nullptr;
}

// The formula's first two lines and its last, for elements [0, count), count <= kGroup, moments in the
// compute type.
template <typename Type, Rounding rounding, bool coupled>
[[gnu::always_inline]] inline void update_moments(const typename Type::Storage* __restrict param,
                                                  const std::int16_t* __restrict low,
                                                  const typename Type::Storage* __restrict grad,
                                                  typename Type::Compute* __restrict exp_avg,
                                                  typename Type::Compute* __restrict exp_avg_sq,
                                                  const Scalars<typename Type::Compute>& scalars, int count) {
  using Compute = typename Type::Compute;
  SMET_VECTORISED
  for (int i = 0; i < count; ++i) {
    Compute g = Type::load(grad[i]) * scalars.sign;
    if constexpr (coupled) g = g + scalars.l2 * load_weight<Type, rounding>(param, low, i);
    exp_avg[i] = exp_avg[i] + (g - exp_avg[i]) * scalars.one_minus_beta1;
    exp_avg_sq[i] = exp_avg_sq[i] * scalars.beta2 + (scalars.one_minus_beta2 * g) * g;
  }
}

inline float square_root(float x) {
  return __builtin_sqrtf(x);
}
inline double square_root(double x) {
  return __builtin_sqrt(x);
}

// root_v(i) is sqrt(v) of element i.
template <typename Type, Rounding rounding, typename RootV>
[[gnu::always_inline]] inline void move_param(typename Type::Storage* __restrict param,
                                              std::int16_t* __restrict low,
                                              const typename Type::Compute* __restrict exp_avg,
                                              const RootV& root_v, const Rows<typename Type::Compute>& rows,
                                              const Scalars<typename Type::Compute>& scalars, int count,
                                              const GroupHash& hash) {
  using Compute = typename Type::Compute;
  SMET_VECTORISED
  for (int i = 0; i < count; ++i) {
    const Compute p = load_weight<Type, rounding>(param, low, i);
    const Compute denominator = root_v(i) * rows.inverse_bc2_sqrt[i] + scalars.eps;
    const Compute result = p + ((rows.step[i] * exp_avg[i]) / denominator - rows.decay[i] * p);
    if constexpr (rounding == Rounding::stochastic) {
      param[i] = static_cast<std::uint16_t>(stochastic_bf16(result, hash(i)));
    } else if constexpr (rounding == Rounding::master) {
      param[i] = master_high(result);
      low[i] = master_low(result);
    } else {
      param[i] = Type::store(result);
    }
  }
}

// Four streams and look-ups leave the hardware's prefetcher behind: 5-10 % at n = 1e7 (and bf16 moments gain
// 5 % more by twice the distance that fp32 ones want).
inline void prefetch(const void* here) {
  __builtin_prefetch(static_cast<const char*>(here) + 1024);
}

template <typename Type, typename Moments, Rounding rounding, bool coupled>
void run_chunk(const AdamWChunk& chunk) {
  using Storage = typename Type::Storage;
  using Compute = typename Type::Compute;
  using Moment = typename Moments::Storage;
  auto* param = static_cast<Storage*>(chunk.param);
  const auto* grad = static_cast<const Storage*>(chunk.grad);
  auto* exp_avg = static_cast<Moment*>(chunk.exp_avg);
  auto* exp_avg_sq = static_cast<Moment*>(chunk.exp_avg_sq);
  const Scalars<Compute> scalars(chunk);
  GroupRows<Compute> group_rows(static_cast<const Compute*>(chunk.table));
  const auto update_at = [&](std::int64_t i, int count, const Rows<Compute>& rows)
      __attribute__((always_inline)) {
    const auto first = static_cast<std::uint64_t>(chunk.first + i);
    alignas(64) Compute m[kGroup];
    alignas(64) Compute v[kGroup];
    Moments::load(exp_avg + i, exp_avg_sq + i, count, m, v);
    std::int16_t* low = low_at<rounding>(chunk, i);
    update_moments<Type, rounding, coupled>(param + i, low, grad + i, m, v, scalars, count);
    // Before the root and the quotients, which keep the processor waiting: it rounds meanwhile.
    Moments::store(m, v, {chunk.moment_key, first}, count, exp_avg + i, exp_avg_sq + i);
    const auto root_v = [&](int lane) __attribute__((always_inline)) {
      return square_root(v[lane]);
    };
    move_param<Type, rounding>(param + i, low, m, root_v, rows, scalars, count, {chunk.rounding_key, first});
  };
  const auto ids_at = [&](std::int64_t i) { return chunk.cohort == nullptr ? nullptr : chunk.cohort + i; };

  std::int64_t i = 0;
  for (; i + kGroup <= chunk.size; i += kGroup) {
    prefetch(param + i);
    prefetch(grad + i);
    prefetch(exp_avg + i);
    prefetch(exp_avg_sq + i);
    if constexpr (rounding == Rounding::master) prefetch(low_at<rounding>(chunk, i));
    update_at(i, kGroup, group_rows.of(ids_at(i)));
  }
  if (i == chunk.size) return;
  const int rest = static_cast<int>(chunk.size - i);
  update_at(i, rest, group_rows.of(ids_at(i), rest));
}

template <typename Type, typename Moments, Rounding rounding>
void rounded_chunk(const AdamWChunk& chunk) {
  return chunk.l2 != 0 ? run_chunk<Type, Moments, rounding, true>(chunk)
                       : run_chunk<Type, Moments, rounding, false>(chunk);
}

template <typename Type, typename Moments>
void adamw_chunk(const AdamWChunk& chunk) {
  if constexpr (__is_same(Type, Bf16)) {
    if (chunk.master_low != nullptr) return rounded_chunk<Type, Moments, Rounding::master>(chunk);
    if (chunk.stochastic_rounding) return rounded_chunk<Type, Moments, Rounding::stochastic>(chunk);
  }
  rounded_chunk<Type, Moments, Rounding::nearest>(chunk);
}

}  // namespace
}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
