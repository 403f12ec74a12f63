// SPDX-License-Identifier: BSD-3-Clause
// The 8-bit moments of adamw_compact.h, one group of weights at a time: from codes and to codes. Only for
// kernels/cpu/isa: everything is in an unnamed namespace (see isa_kernels.h).
#pragma once

#include "kernels/block8.h"
#include "kernels/cpu/isa/moments.h"
#include "kernels/cpu/isa/vectors.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// m and sqrt(v) in units of their own: from a scale to fp32, or from fp32 to a scale.
struct Block8Factors {
  float m, root_v;

  static Block8Factors units(float scale, float scale_sq) {
    return {block8_unit(scale, kBlock8MaxM), block8_unit(scale_sq, kBlock8MaxV)};
  }
  static Block8Factors per_unit(float scale, float scale_sq) {
    const Block8Factors unit = units(scale, scale_sq);
    return {block8_per_unit(unit.m), block8_per_unit(unit.root_v)};
  }
};

// The new moments of one group.
struct GroupMoments {
  alignas(64) float m[kGroup];
  alignas(64) float root_v[kGroup];
};

// The largest |m| and sqrt(v) of many groups. As bits, magnitudes order as numbers do, and NaN is the
// largest.
struct LargestMoments {
  alignas(64) std::uint32_t m[kGroup] = {};
  alignas(64) std::uint32_t root_v[kGroup] = {};

  [[gnu::always_inline]] void take(const GroupMoments& moments);
  void read(float* scale, float* scale_sq) const {
    std::uint32_t most_m = 0;
    std::uint32_t most_root = 0;
    for (int lane = 0; lane < kGroup; ++lane) {
      most_m = most_m < m[lane] ? m[lane] : most_m;
      most_root = most_root < root_v[lane] ? root_v[lane] : most_root;
    }
    *scale = bits_float(most_m);
    *scale_sq = bits_float(most_root);
  }
};

template <typename Type>
[[gnu::always_inline]] inline void widen(const typename Type::Storage* from, float* __restrict to) {
  SMET_VECTORISED
  for (int lane = 0; lane < kGroup; ++lane) to[lane] = Type::load(from[lane]);
}

[[gnu::always_inline]] inline Vector square_roots(Vector x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xFFFF, x);  // _mm512_sqrt_ps: "may be used uninitialized"
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
  return x;
#endif
}

}  // namespace
}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE

#include "kernels/cpu/isa/block8_codes_512.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

#if defined(__AVX512F__)
// block8_codes_512.h
#elif defined(__AVX2__)

// The loops of the last branch, by hand: the compiler's mixture of 8 and 32 bits takes several times as long.
[[gnu::always_inline]] inline void decode_group(const std::uint8_t* codes_m, const std::uint8_t* codes_v,
                                                Block8Factors unit, float* __restrict m,
                                                float* __restrict v) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  for (int lane = 0; lane < kGroup; lane += 8) {
    const __m256 c = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_64(codes_m + lane)));
    const __m256 square = _mm256_mul_ps(c, _mm256_andnot_ps(sign, c));
    _mm256_storeu_ps(m + lane, _mm256_mul_ps(_mm256_set1_ps(unit.m), square));
    const __m256 d = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_64(codes_v + lane)));
    const __m256 root = _mm256_mul_ps(_mm256_set1_ps(unit.root_v), _mm256_mul_ps(d, d));
    _mm256_storeu_ps(v + lane, _mm256_mul_ps(root, root));
  }
}

inline void LargestMoments::take(const GroupMoments& moments) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  const auto most = [&](std::uint32_t* so_far, const float* x) {
    const __m256i larger = _mm256_max_epu32(_mm256_and_si256(load_256(x), magnitude),
                                            _mm256_and_si256(load_256(x + 8), magnitude));
    store_256(so_far, _mm256_max_epu32(load_256(so_far), larger));
  };
  most(m, moments.m);
  most(root_v, moments.root_v);
}

// (r + 1/2) / 2^14 for the 14 bits r that `shifted` has in its bits 9 to 22, which are those of the number's
// fraction.
inline __m256 eight_randoms(__m256i shifted) {
  const __m256i bits = _mm256_or_si256(_mm256_and_si256(shifted, _mm256_set1_epi32(0x3FFF << 9)),
                                       _mm256_set1_epi32(0x3F800000 | 1 << 8));
  return _mm256_sub_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(1));
}

// block8_code of eight. The fused operations round nothing.
[[gnu::always_inline]] inline __m256i eight_codes(__m256 magnitude, float per_unit, int max_code,
                                                  __m256 random) {
  const __m256 units = _mm256_min_ps(_mm256_mul_ps(magnitude, _mm256_set1_ps(per_unit)),
                                     _mm256_set1_ps(static_cast<float>(max_code * max_code)));
  const __m256i floor = _mm256_cvttps_epi32(_mm256_sqrt_ps(units));
  const __m256 low = _mm256_cvtepi32_ps(floor);
  const __m256 above = _mm256_fnmadd_ps(low, low, units);
  const __m256 odd = _mm256_fmadd_ps(low, _mm256_set1_ps(2), _mm256_set1_ps(1));
  const __m256 up = _mm256_cmp_ps(_mm256_mul_ps(random, odd), above, _CMP_LT_OQ);
  return _mm256_sub_epi32(floor, _mm256_castps_si256(up));
}

[[gnu::always_inline]] inline void encode_group(const GroupMoments& moments, Block8Factors per_unit,
                                                const GroupHash& hash, std::uint8_t* codes_m,
                                                std::uint8_t* codes_v) {
  __m256i coded_m[2];
  __m256i coded_v[2];
  for (std::int64_t half = 0; half < 2; ++half) {
    const EightHashes noise = hash.eight(static_cast<int>(8 * half));
    const __m256 x = _mm256_load_ps(moments.m + 8 * half);
    const __m256 root = _mm256_load_ps(moments.root_v + 8 * half);
    const __m256i code = eight_codes(_mm256_andnot_ps(_mm256_set1_ps(-0.0F), x), per_unit.m, kBlock8MaxM,
                                     eight_randoms(_mm256_slli_epi32(noise.bits, 7)));
    const __m256i negative = _mm256_castps_si256(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
    coded_m[half] = _mm256_sub_epi32(_mm256_xor_si256(code, negative), negative);
    const __m256i least = _mm256_min_epu32(_mm256_castps_si256(root), _mm256_set1_epi32(1));
    coded_v[half] = _mm256_max_epi32(
        eight_codes(root, per_unit.root_v, kBlock8MaxV, eight_randoms(_mm256_slli_epi32(noise.high, 7))),
        least);
  }
  const auto bytes = [](__m256i shorts, bool is_signed) {
    const __m128i low = _mm256_castsi256_si128(shorts);
    const __m128i high = _mm256_extracti128_si256(shorts, 1);
    return is_signed ? _mm_packs_epi16(low, high) : _mm_packus_epi16(low, high);
  };
  const __m256i shorts_m = _mm256_permute4x64_epi64(_mm256_packs_epi32(coded_m[0], coded_m[1]), 0xD8);
  store_128(codes_m, bytes(shorts_m, true));
  store_128(codes_v, bytes(narrow_16(coded_v[0], coded_v[1]), false));
}

#else

[[gnu::always_inline]] inline void decode_group(const std::uint8_t* codes_m, const std::uint8_t* codes_v,
                                                Block8Factors unit, float* __restrict m,
                                                float* __restrict v) {
  for (int lane = 0; lane < kGroup; ++lane) m[lane] = block8_m(unit.m, codes_m[lane]);
  for (int lane = 0; lane < kGroup; ++lane) {
    const float root = block8_sqrt_v(unit.root_v, codes_v[lane]);
    v[lane] = root * root;
  }
}

inline void LargestMoments::take(const GroupMoments& moments) {
  for (int lane = 0; lane < kGroup; ++lane) {
    const std::uint32_t bits_m = float_bits(moments.m[lane]) & 0x7FFFFFFFU;
    const std::uint32_t bits_root = float_bits(moments.root_v[lane]) & 0x7FFFFFFFU;
    m[lane] = m[lane] < bits_m ? bits_m : m[lane];
    root_v[lane] = root_v[lane] < bits_root ? bits_root : root_v[lane];
  }
}

[[gnu::always_inline]] inline void encode_group(const GroupMoments& moments, Block8Factors per_unit,
                                                const GroupHash& hash, std::uint8_t* codes_m,
                                                std::uint8_t* codes_v) {
  for (int lane = 0; lane < kGroup; ++lane) {
    const std::uint32_t noise = hash(lane);
    const float m = moments.m[lane];
    const float root_v = moments.root_v[lane];
    const float units = block8_units(__builtin_fabsf(m), per_unit.m, kBlock8MaxM);
    const int code = block8_code(units, __builtin_sqrtf(units), noise);
    codes_m[lane] = static_cast<std::uint8_t>(m < 0 ? -code : code);
    const float units_sq = block8_units(root_v, per_unit.root_v, kBlock8MaxV);
    const int code_sq = block8_code(units_sq, __builtin_sqrtf(units_sq), noise >> 16);
    codes_v[lane] = static_cast<std::uint8_t>(root_v > 0 && code_sq == 0 ? 1 : code_sq);
  }
}

#endif

}  // namespace
}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
