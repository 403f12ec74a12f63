// SPDX-License-Identifier: BSD-3-Clause
// adamw_step, inner loops: one chunk of one tensor, sixteen elements at a time. Plain loops that the compiler
// turns into vectors; only the table look-up is written out.
#include "kernels/cpu/isa/lanes.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/half.h"
#include "kernels/rounding_hash.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

constexpr int kGroup = 16;

enum class Rounding : std::uint8_t { nearest, stochastic };

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

// The table rows of one group, lane by lane.
template <typename Compute>
struct Rows {
  alignas(64) Compute decay[kGroup];
  alignas(64) Compute step[kGroup];  // -step_size
  alignas(64) Compute bc2_sqrt[kGroup];
};

template <typename Compute>
inline void broadcast_row(const Compute* table, int id, Rows<Compute>& rows) {
  const Compute* row = table + std::int64_t{4} * id;
  for (int lane = 0; lane < kGroup; ++lane) {
    rows.decay[lane] = row[0];
    rows.step[lane] = row[1];
    rows.bc2_sqrt[lane] = row[2];
  }
}

template <typename Compute>
inline void look_up(const Compute* table, const std::uint8_t* ids, int count, Rows<Compute>& rows) {
  for (int lane = 0; lane < count; ++lane) {
    const Compute* row = table + std::int64_t{4} * ids[lane];
    rows.decay[lane] = row[0];
    rows.step[lane] = row[1];
    rows.bc2_sqrt[lane] = row[2];
  }
}

#ifdef __AVX2__

// Two rows in the halves of one register.
inline __m256 load_rows(const float* table, std::int64_t low, std::int64_t high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(table + 4 * low)),
                              _mm_loadu_ps(table + 4 * high), 1);
}

// Eight rows of four floats, transposed: three registers of eight lanes.
inline void look_up_8(const float* table, const std::uint8_t* ids, float* decay, float* step,
                      float* bc2_sqrt) {
  const __m256 rows04 = load_rows(table, ids[0], ids[4]);
  const __m256 rows15 = load_rows(table, ids[1], ids[5]);
  const __m256 rows26 = load_rows(table, ids[2], ids[6]);
  const __m256 rows37 = load_rows(table, ids[3], ids[7]);
  const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(rows04, rows15));
  const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(rows26, rows37));
  const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(rows04, rows15));
  const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(rows26, rows37));
  _mm256_storeu_ps(decay, _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)));
  _mm256_storeu_ps(step, _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)));
  _mm256_storeu_ps(bc2_sqrt, _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23)));
}

template <>
inline void look_up<float>(const float* table, const std::uint8_t* ids, int count, Rows<float>& rows) {
  int lane = 0;
  for (; lane + 8 <= count; lane += 8) {
    look_up_8(table, ids + lane, rows.decay + lane, rows.step + lane, rows.bc2_sqrt + lane);
  }
  for (; lane < count; ++lane) {
    const float* row = table + std::int64_t{4} * ids[lane];
    rows.decay[lane] = row[0];
    rows.step[lane] = row[1];
    rows.bc2_sqrt[lane] = row[2];
  }
}

#endif

// Whether sixteen ids are equal.
inline bool uniform(const std::uint8_t* ids) {
  std::uint64_t low;
  std::uint64_t high;
  std::memcpy(&low, ids, 8);
  std::memcpy(&high, ids + 8, 8);
  return low == high && low == ids[0] * 0x0101010101010101ULL;
}

template <typename Compute>
struct Scalars {
  Compute beta2, one_minus_beta1, one_minus_beta2, eps, l2, sign;
};

// bf16(bits + 16 random bits): up or down with probability by distance; non-finite x to nearest.
inline std::uint16_t store_stochastic(float x, std::uint64_t key, std::uint64_t i) {
  const std::uint32_t bits = float_bits(x);
  const std::uint32_t rounded = (bits + (hash32(key, i) & 0xFFFFU)) >> 16;
  const bool finite = (bits & 0x7F800000U) != 0x7F800000U;
  return finite ? static_cast<std::uint16_t>(rounded) : f32_to_bf16(x);
}

// The arithmetic of adamw_step.h for elements [0, count), count <= kGroup.
template <typename Type, Rounding rounding, bool coupled>
[[gnu::always_inline]] inline void update(typename Type::Storage* __restrict param,
                                          const typename Type::Storage* __restrict grad,
                                          typename Type::Compute* __restrict exp_avg,
                                          typename Type::Compute* __restrict exp_avg_sq,
                                          const Rows<typename Type::Compute>& rows,
                                          const Scalars<typename Type::Compute>& scalars, int count,
                                          std::uint64_t key, std::uint64_t first) {
  using Compute = typename Type::Compute;
  for (int i = 0; i < count; ++i) {
    const Compute p = Type::load(param[i]);
    Compute g = Type::load(grad[i]) * scalars.sign;
    if constexpr (coupled) g = g + scalars.l2 * p;
    const Compute m = exp_avg[i] + (g - exp_avg[i]) * scalars.one_minus_beta1;
    const Compute v = exp_avg_sq[i] * scalars.beta2 + (scalars.one_minus_beta2 * g) * g;
    Compute root;
    if constexpr (sizeof(Compute) == 8) {
      root = __builtin_sqrt(v);
    } else {
      root = __builtin_sqrtf(v);
    }
    const Compute change = (rows.step[i] * m) / (root / rows.bc2_sqrt[i] + scalars.eps) - rows.decay[i] * p;
    const Compute result = p + change;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    if constexpr (rounding == Rounding::stochastic) {
      param[i] = store_stochastic(result, key, first + static_cast<std::uint64_t>(i));
    } else {
      param[i] = Type::store(result);
    }
  }
}

// Four streams and look-ups leave the hardware's prefetcher behind: 5-10 % at n = 1e7.
inline void prefetch(const void* here) {
  __builtin_prefetch(static_cast<const char*>(here) + 512);
}

template <typename Type, Rounding rounding, bool coupled>
void run_chunk(const AdamWChunk& chunk) {
  using Storage = typename Type::Storage;
  using Compute = typename Type::Compute;
  auto* param = static_cast<Storage*>(chunk.param);
  const auto* grad = static_cast<const Storage*>(chunk.grad);
  auto* exp_avg = static_cast<Compute*>(chunk.exp_avg);
  auto* exp_avg_sq = static_cast<Compute*>(chunk.exp_avg_sq);
  const auto* table = static_cast<const Compute*>(chunk.table);
  const Scalars<Compute> scalars = {
      static_cast<Compute>(chunk.beta2),     static_cast<Compute>(1 - chunk.beta1),
      static_cast<Compute>(1 - chunk.beta2), static_cast<Compute>(chunk.eps),
      static_cast<Compute>(chunk.l2),        chunk.maximize ? Compute{-1} : Compute{1}};
  const auto first = static_cast<std::uint64_t>(chunk.first);
  Rows<Compute> rows;
  int held = 0;  // the id whose row fills `rows`, or -1
  broadcast_row(table, held, rows);

  std::int64_t i = 0;
  for (; i + kGroup <= chunk.size; i += kGroup) {
    prefetch(param + i);
    prefetch(grad + i);
    prefetch(exp_avg + i);
    prefetch(exp_avg_sq + i);
    const std::uint8_t* ids = chunk.cohort + i;
    if (chunk.cohort != nullptr && (ids[0] != held || !uniform(ids))) {
      if (uniform(ids)) {
        held = ids[0];
        broadcast_row(table, held, rows);
      } else {
        held = -1;
        look_up(table, ids, kGroup, rows);
      }
    }
    update<Type, rounding, coupled>(param + i, grad + i, exp_avg + i, exp_avg_sq + i, rows, scalars, kGroup,
                                    chunk.rounding_key, first + static_cast<std::uint64_t>(i));
  }
  if (i == chunk.size) return;
  const int rest = static_cast<int>(chunk.size - i);
  if (chunk.cohort != nullptr) look_up(table, chunk.cohort + i, rest, rows);
  update<Type, rounding, coupled>(param + i, grad + i, exp_avg + i, exp_avg_sq + i, rows, scalars, rest,
                                  chunk.rounding_key, first + static_cast<std::uint64_t>(i));
}

template <typename Type>
void adamw_chunk(const AdamWChunk& chunk) {
  if constexpr (__is_same(Type, Bf16)) {
    if (chunk.stochastic_rounding) {
      return chunk.l2 != 0 ? run_chunk<Type, Rounding::stochastic, true>(chunk)
                           : run_chunk<Type, Rounding::stochastic, false>(chunk);
    }
  }
  return chunk.l2 != 0 ? run_chunk<Type, Rounding::nearest, true>(chunk)
                       : run_chunk<Type, Rounding::nearest, false>(chunk);
}

template <typename Type>
bool has_nonfinite(const void* data, std::int64_t size) {
  const auto* x = static_cast<const typename Type::Storage*>(data);
  constexpr std::int64_t kBlock = 1024;
  std::int64_t i = 0;
  for (; i + kBlock <= size; i += kBlock) {
    unsigned found = 0;
    for (std::int64_t j = 0; j < kBlock; ++j) found |= static_cast<unsigned>(Type::nonfinite(x[i + j]));
    if (found != 0) return true;
  }
  for (; i < size; ++i) {
    if (Type::nonfinite(x[i])) return true;
  }
  return false;
}

}  // namespace

extern const AdamWKernels kAdamWStep;
const AdamWKernels kAdamWStep = {
    {adamw_chunk<F32>, adamw_chunk<F64>, adamw_chunk<Bf16>, adamw_chunk<F16>},
    {has_nonfinite<F32>, has_nonfinite<F64>, has_nonfinite<Bf16>, has_nonfinite<F16>},
};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
