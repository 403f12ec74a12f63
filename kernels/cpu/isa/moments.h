// SPDX-License-Identifier: BSD-3-Clause
// How the moments of one group of weights are read and stored: as they are computed, or as bf16 rounded at
// random (adamw_compact.h). Only for kernels/cpu/isa: everything is in an unnamed namespace (see
// isa_kernels.h).
#pragma once

#include "kernels/cpu/isa/cohort_rows.h"
#include "kernels/half.h"
#include "kernels/rounding_hash.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

#ifdef __AVX512F__
inline constexpr __mmask16 kAll = 0xFFFF;  // forms without a mask: "may be used uninitialized"
#endif

// The hashes of some lanes, and their high halves.
#ifdef __AVX2__
struct EightHashes {
  __m256i bits, high;
};
#endif
#ifdef __AVX512F__
struct SixteenHashes {
  __m512i bits, high;
};
#endif

// hash32(key, first + lane) for the lanes of one group, whose indices agree in their high words.
struct GroupHash {
  RunHash run;

  GroupHash(std::uint64_t key, std::uint64_t first) : run(hash32_run(key, first)) {}
  std::uint32_t operator()(int lane) const { return hash32(run, lane); }
#ifdef __AVX2__
  // Of lanes `lane` to `lane` + 7.
  EightHashes eight(int lane) const {
    const __m256i lanes = _mm256_setr_epi32(0, product(1), product(2), product(3), product(4), product(5),
                                            product(6), product(7));
    const __m256i x =
        _mm256_add_epi32(lanes, broadcast(run.start + static_cast<std::uint32_t>(lane) * kMix1));
    const __m256i mixed = _mm256_xor_si256(x, _mm256_srli_epi32(x, 13));
    const __m256i y = _mm256_add_epi32(_mm256_mullo_epi32(mixed, broadcast(kMix2)), broadcast(run.high_key));
    const __m256i high = _mm256_srli_epi32(y, 16);
    return {_mm256_xor_si256(y, high), high};
  }
#ifdef __AVX512F__
  SixteenHashes sixteen() const {
    const auto wide = [](std::uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); };
    const __m512i lanes = _mm512_setr_epi32(0, product(1), product(2), product(3), product(4), product(5),
                                            product(6), product(7), product(8), product(9), product(10),
                                            product(11), product(12), product(13), product(14), product(15));
    const __m512i x = _mm512_add_epi32(lanes, wide(run.start));
    const __m512i mixed = _mm512_xor_si512(x, _mm512_maskz_srli_epi32(kAll, x, 13));
    const __m512i y = _mm512_add_epi32(_mm512_mullo_epi32(mixed, wide(kMix2)), wide(run.high_key));
    const __m512i high = _mm512_maskz_srli_epi32(kAll, y, 16);
    return {_mm512_xor_si512(y, high), high};
  }
#endif

 private:
  static constexpr int product(std::uint32_t lane) {
    return static_cast<int>(lane * kMix1);
  }
  static __m256i broadcast(std::uint32_t x) {
    return _mm256_set1_epi32(static_cast<int>(x));
  }
#endif
};

// bf16(bits + the low 16 bits of noise): up or down with probability by distance. Infinity stays, and a NaN,
// which as a result of arithmetic is a quiet one, is truncated to one.
inline std::uint32_t stochastic_bf16(float x, std::uint32_t noise) {
  return (float_bits(x) + (x == x ? noise & 0xFFFFU : 0)) >> 16;
}

// In the compute type.
template <typename Compute>
struct FullMoments {
  using Storage = Compute;

  [[gnu::always_inline]] static void load(const Storage* __restrict exp_avg,
                                          const Storage* __restrict exp_avg_sq, int count,
                                          Compute* __restrict m, Compute* __restrict v) {
    for (int i = 0; i < count; ++i) m[i] = exp_avg[i];
    for (int i = 0; i < count; ++i) v[i] = exp_avg_sq[i];
  }
  [[gnu::always_inline]] static void store(const Compute* __restrict m, const Compute* __restrict v,
                                           const GroupHash& /*hash*/, int count, Storage* __restrict exp_avg,
                                           Storage* __restrict exp_avg_sq) {
    for (int i = 0; i < count; ++i) exp_avg[i] = m[i];
    for (int i = 0; i < count; ++i) exp_avg_sq[i] = v[i];
  }
};

struct Bf16Moments {
  using Storage = std::uint16_t;

  [[gnu::always_inline]] static void load(const Storage* __restrict exp_avg,
                                          const Storage* __restrict exp_avg_sq, int count,
                                          float* __restrict m, float* __restrict v) {
#ifdef __AVX2__
    if (count == kGroup) {
      widen_group(exp_avg, m);
      widen_group(exp_avg_sq, v);
      return;
    }
#endif
    for (int i = 0; i < count; ++i) m[i] = bf16_to_f32(exp_avg[i]);
    for (int i = 0; i < count; ++i) v[i] = bf16_to_f32(exp_avg_sq[i]);
  }

  [[gnu::always_inline]] static void store(const float* __restrict m, const float* __restrict v,
                                           const GroupHash& hash, int count, Storage* __restrict exp_avg,
                                           Storage* __restrict exp_avg_sq) {
#ifdef __AVX2__
    if (count == kGroup) return narrow_group(m, v, hash, exp_avg, exp_avg_sq);
#endif
    for (int i = 0; i < count; ++i) {
      const std::uint32_t noise = hash(i);
      const std::uint32_t code = stochastic_bf16(v[i], noise >> 16);
      const std::uint32_t least = float_bits(v[i]) != 0 ? 1 : 0;  // a live v stays live
      exp_avg[i] = static_cast<Storage>(stochastic_bf16(m[i], noise));
      exp_avg_sq[i] = static_cast<Storage>(code < least ? least : code);
    }
  }

#if defined(__AVX512F__)
 private:
  // The loops above on a whole group, by hand: the compiler's mixture of 16 and 32 bits takes half as long
  // again.
  static void widen_group(const Storage* from, float* to) {
    const __m512i codes = _mm512_maskz_cvtepu16_epi32(kAll, load_256(from));
    _mm512_store_si512(to, _mm512_maskz_slli_epi32(kAll, codes, 16));
  }
  // stochastic_bf16; the noise has 16 bits.
  static __m512i round(__m512 x, __m512i noise) {
    const __m512i bits = _mm512_castps_si512(x);
    const __mmask16 is_number = _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q);
    return _mm512_maskz_srli_epi32(kAll, _mm512_mask_add_epi32(bits, is_number, bits, noise), 16);
  }
  static void narrow_group(const float* m, const float* v, const GroupHash& hash, Storage* exp_avg,
                           Storage* exp_avg_sq) {
    const SixteenHashes noise = hash.sixteen();
    const __m512i low = _mm512_and_si512(noise.bits, _mm512_set1_epi32(0xFFFF));
    const __m512i code_m = round(_mm512_load_ps(m), low);
    const __m512 x = _mm512_load_ps(v);
    const __m512i least = _mm512_maskz_min_epu32(kAll, _mm512_castps_si512(x), _mm512_set1_epi32(1));
    const __m512i code_v = _mm512_maskz_max_epu32(kAll, round(x, noise.high), least);
    // Four codes of m, four of v and so on; then all of m and all of v.
    const __m512i mixed = _mm512_maskz_packus_epi32(0xFFFFFFFF, code_m, code_v);
    const __m512i apart =
        _mm512_maskz_permutexvar_epi64(0xFF, _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), mixed);
    store_256(exp_avg, _mm512_maskz_extracti64x4_epi64(0xF, apart, 0));
    store_256(exp_avg_sq, _mm512_maskz_extracti64x4_epi64(0xF, apart, 1));
  }
#elif defined(__AVX2__)
 private:
  static void widen_group(const Storage* from, float* to) {
    store_256(to, widen_bf16(load_128(from)));
    store_256(to + 8, widen_bf16(load_128(from + 8)));
  }
  // stochastic_bf16 of eight; the noise has 16 bits.
  static __m256i round(const float* from, __m256i noise) {
    const __m256 x = _mm256_load_ps(from);
    const __m256i is_number = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_ORD_Q));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_and_si256(noise, is_number)),
                             16);
  }
  static void narrow_group(const float* m, const float* v, const GroupHash& hash, Storage* exp_avg,
                           Storage* exp_avg_sq) {
    __m256i codes_m[2];
    __m256i codes_v[2];
    for (std::int64_t half = 0; half < 2; ++half) {
      const EightHashes noise = hash.eight(static_cast<int>(8 * half));
      codes_m[half] = round(m + 8 * half, _mm256_and_si256(noise.bits, _mm256_set1_epi32(0xFFFF)));
      const __m256i code = round(v + 8 * half, noise.high);
      codes_v[half] = _mm256_max_epu32(code, _mm256_min_epu32(load_256(v + 8 * half), _mm256_set1_epi32(1)));
    }
    store_256(exp_avg, narrow_16(codes_m[0], codes_m[1]));
    store_256(exp_avg_sq, narrow_16(codes_v[0], codes_v[1]));
  }
#endif
};

}  // namespace
}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
