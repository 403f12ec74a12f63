// SPDX-License-Identifier: BSD-3-Clause
// adamw_step on blocks of 8-bit moments (adamw_compact.h). A code can be chosen only when the block's new
// scale is known, so each block is gone over twice: moments first, then codes and parameters. Only for
// kernels/cpu/isa: everything is in an unnamed namespace (see isa_kernels.h).
#pragma once

#include "kernels/cpu/isa/adamw_update.h"
#include "kernels/cpu/isa/block8_codes.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// Weights whose moments are kept between the two passes; those of a larger block are computed twice.
inline constexpr std::int64_t kKept = 1024;

// Where weights lie.
template <typename Storage>
struct Places {
  Storage* param;
  std::int16_t* low;  // of their masters, null: none
  const Storage* grad;
  std::uint8_t* m;
  std::uint8_t* v;
  const std::uint8_t* cohort;

  explicit Places(const AdamWChunk& chunk)
      : param(static_cast<Storage*>(chunk.param)),
        low(chunk.master_low),
        grad(static_cast<const Storage*>(chunk.grad)),
        m(static_cast<std::uint8_t*>(chunk.exp_avg)),
        v(static_cast<std::uint8_t*>(chunk.exp_avg_sq)),
        cohort(chunk.cohort) {}
};

// A group of fewer than sixteen weights in places of their own, filled up with zeros, whose moments are 0. In
// memory other blocks' weights follow: those of the same chunk, which one thread computes in order, may be
// read and written back as they are (`room`), others not.
template <typename Storage, Rounding rounding>
class PartialGroup {
 public:
  alignas(32) Storage param[kGroup];
  alignas(32) std::int16_t low[kGroup];
  alignas(32) Storage grad[kGroup];
  alignas(16) std::uint8_t m[kGroup];
  alignas(16) std::uint8_t v[kGroup];
  alignas(16) std::uint8_t cohort[kGroup];
  int count;
  bool room;

  [[gnu::noinline]] void fill(const Places<Storage>& at, std::int64_t i, int weights, bool has_room) {
    count = weights;
    room = has_room;
    read(param, at.param + i);
    if constexpr (rounding == Rounding::master) read(low, at.low + i);
    read(grad, at.grad + i);
    read(m, at.m + i);
    read(v, at.v + i);
    if (at.cohort != nullptr) read(cohort, at.cohort + i);
  }
  [[gnu::noinline]] void write_back(const Places<Storage>& at, std::int64_t i) const {
    write(at.param + i, param);
    if constexpr (rounding == Rounding::master) write(at.low + i, low);
    write(at.m + i, m);
    write(at.v + i, v);
  }

 private:
  template <typename T>
  void read(T* __restrict to, const T* __restrict from) const {
    if (room) {
      for (int lane = 0; lane < kGroup; ++lane) {
        const T x = from[lane];
        to[lane] = lane < count ? x : T{};
      }
    } else {
      for (int lane = 0; lane < kGroup; ++lane) to[lane] = lane < count ? from[lane] : T{};
    }
  }
  template <typename T>
  void write(T* __restrict to, const T* __restrict from) const {
    if (room) {
      for (int lane = 0; lane < kGroup; ++lane) {
        const T old = to[lane];
        to[lane] = lane < count ? from[lane] : old;
      }
    } else {
      for (int lane = 0; lane < count; ++lane) to[lane] = from[lane];
    }
  }
};

// The end of the weights from i on whose indices have one high word.
inline std::int64_t end_of_stretch(std::int64_t first, std::int64_t i, std::int64_t end) {
  const std::int64_t stretch = i + (std::int64_t{1} << 32) - ((first + i) & 0xFFFFFFFF);
  return end < stretch ? end : stretch;
}

// body(param, low, grad, m, v, cohort, i) for the groups of weights [begin, end); what it writes to them is
// kept if `writes`. One copy of the body serves whole and partial groups.
template <bool writes, typename Storage, Rounding rounding, typename Body>
[[gnu::always_inline]] inline void for_groups(const AdamWChunk& chunk, std::int64_t begin, std::int64_t end,
                                              const Body& body) {
  const Places<Storage> at(chunk);
  PartialGroup<Storage, rounding> part;
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t left = end_of_stretch(chunk.first, i, end) - i;
    const bool whole = left >= kGroup;
    if (whole) {
      prefetch(writes ? static_cast<const void*>(at.param + i) : at.grad + i);
    } else {
      part.fill(at, i, static_cast<int>(left), i + kGroup <= chunk.size);
    }
    const std::uint8_t* cohort = whole ? at.cohort + i : part.cohort;
    body(whole ? at.param + i : part.param, whole ? low_at<rounding>(chunk, i) : part.low,
         whole ? at.grad + i : part.grad, whole ? at.m + i : part.m, whole ? at.v + i : part.v,
         at.cohort == nullptr ? nullptr : cohort, i);
    if constexpr (writes) {
      if (!whole) part.write_back(at, i);
    }
    i += whole ? kGroup : left;
  }
}

// update_moments and move_param of adamw_update.h, by hand: of loops as long as these bodies the compiler
// makes vectors of only some.
template <typename Type, Rounding rounding>
[[gnu::always_inline]] inline void widen_weights(const typename Type::Storage* __restrict param,
                                                 const std::int16_t* __restrict low, float* __restrict to) {
  SMET_VECTORISED
  for (int lane = 0; lane < kGroup; ++lane) to[lane] = load_weight<Type, rounding>(param, low, lane);
}

template <typename Type, Rounding rounding, bool coupled>
[[gnu::always_inline]] inline void new_moments(const typename Type::Storage* param, const std::int16_t* low,
                                               const typename Type::Storage* grad,
                                               const std::uint8_t* codes_m, const std::uint8_t* codes_v,
                                               Block8Factors unit, const Scalars<float>& scalars,
                                               GroupMoments* to) {
  alignas(64) float gradients[kGroup];
  alignas(64) float params[kGroup];
  alignas(64) float v[kGroup];
  widen<Type>(grad, gradients);
  if constexpr (coupled) widen_weights<Type, rounding>(param, low, params);
  decode_group(codes_m, codes_v, unit, to->m, v);
  for (int lane = 0; lane < kGroup; lane += kLanes) {
    Vector g = load_aligned<Vector>(gradients + lane) * scalars.sign;
    if constexpr (coupled) g = g + scalars.l2 * load_aligned<Vector>(params + lane);
    const Vector m = load_aligned<Vector>(to->m + lane);
    const Vector new_v = load_aligned<Vector>(v + lane) * scalars.beta2 + (scalars.one_minus_beta2 * g) * g;
    store_aligned(to->m + lane, m + (g - m) * scalars.one_minus_beta1);
    store_aligned(to->root_v + lane, square_roots(new_v));
  }
}

template <typename Type, Rounding rounding>
[[gnu::always_inline]] inline void move_group(typename Type::Storage* __restrict param,
                                              std::int16_t* __restrict low, const GroupMoments& moments,
                                              const Rows<float>& rows, const Scalars<float>& scalars,
                                              const GroupHash& hash) {
  alignas(64) float params[kGroup];
  widen_weights<Type, rounding>(param, low, params);
  for (int lane = 0; lane < kGroup; lane += kLanes) {
    const Vector p = load_aligned<Vector>(params + lane);
    const Vector denominator =
        load_aligned<Vector>(moments.root_v + lane) * load_aligned<Vector>(rows.inverse_bc2_sqrt + lane) +
        scalars.eps;
    const Vector numerator = load_aligned<Vector>(rows.step + lane) * load_aligned<Vector>(moments.m + lane);
    store_aligned(params + lane, p + (numerator / denominator - load_aligned<Vector>(rows.decay + lane) * p));
  }
  SMET_VECTORISED
  for (int lane = 0; lane < kGroup; ++lane) {
    if constexpr (rounding == Rounding::stochastic) {
      param[lane] = static_cast<std::uint16_t>(stochastic_bf16(params[lane], hash(lane)));
    } else if constexpr (rounding == Rounding::master) {
      param[lane] = master_high(params[lane]);
      low[lane] = master_low(params[lane]);
    } else {
      param[lane] = Type::store(params[lane]);
    }
  }
}

template <typename Type, Rounding rounding, bool coupled>
void run_blocks(const Block8Chunk& chunk) {
  using Storage = typename Type::Storage;
  const AdamWChunk& weights = chunk.weights;
  const Scalars<float> scalars(weights);
  GroupRows<float> rows(static_cast<const float*>(weights.table));
  GroupMoments kept[kKept / kGroup + 2];  // two groups of a block may be partial ones

  for (std::int64_t block = 0; block < chunk.blocks; ++block) {
    const std::int64_t begin = chunk.begins[block];
    const std::int64_t end = chunk.begins[block + 1];
    const Block8Factors unit = Block8Factors::units(chunk.scale[block], chunk.scale_sq[block]);
    const bool keeps = end - begin <= kKept;
    LargestMoments most;
    GroupMoments* place = kept;
    for_groups<false, Storage, rounding>(
        weights, begin, end,
        [&](const Storage* param, const std::int16_t* low, const Storage* grad, const std::uint8_t* m,
            const std::uint8_t* v, const std::uint8_t*, std::int64_t) __attribute__((always_inline)) {
          new_moments<Type, rounding, coupled>(param, low, grad, m, v, unit, scalars, place);
          most.take(*place);
          place += keeps ? 1 : 0;
        });
    most.read(chunk.scale + block, chunk.scale_sq + block);
    const auto per_unit = Block8Factors::per_unit(chunk.scale[block], chunk.scale_sq[block]);
    place = kept;
    for_groups<true, Storage, rounding>(
        weights, begin, end,
        [&](Storage * param, std::int16_t * low, const Storage* grad, std::uint8_t* m, std::uint8_t* v,
            const std::uint8_t* cohort, std::int64_t i) __attribute__((always_inline)) {
          if (!keeps) new_moments<Type, rounding, coupled>(param, low, grad, m, v, unit, scalars, place);
          const auto index = static_cast<std::uint64_t>(weights.first + i);
          encode_group(*place, per_unit, {weights.moment_key, index}, m, v);
          move_group<Type, rounding>(param, low, *place, rows.of(cohort), scalars,
                                     {weights.rounding_key, index});
          place += keeps ? 1 : 0;
        });
  }
}

template <typename Type, Rounding rounding>
void rounded_blocks(const Block8Chunk& chunk) {
  return chunk.weights.l2 != 0 ? run_blocks<Type, rounding, true>(chunk)
                               : run_blocks<Type, rounding, false>(chunk);
}

template <typename Type>
void block8_chunk(const Block8Chunk& chunk) {
  if constexpr (__is_same(Type, Bf16)) {
    if (chunk.weights.master_low != nullptr) return rounded_blocks<Type, Rounding::master>(chunk);
    if (chunk.weights.stochastic_rounding) return rounded_blocks<Type, Rounding::stochastic>(chunk);
  }
  rounded_blocks<Type, Rounding::nearest>(chunk);
}

}  // namespace
}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
