// SPDX-License-Identifier: BSD-3-Clause
// block8_codes.h on AVX-512: a whole group at a time. Only for kernels/cpu/isa.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>

#include "kernels/cpu/isa/moments.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

inline __m512 widen_codes(__m512i codes) {
  return _mm512_maskz_cvtepi32_ps(kAll, codes);
}

[[gnu::always_inline]] inline void decode_group(const std::uint8_t* codes_m, const std::uint8_t* codes_v,
                                                Block8Factors unit, float* __restrict m,
                                                float* __restrict v) {
  const __m512 c = widen_codes(_mm512_maskz_cvtepi8_epi32(kAll, load_128(codes_m)));
  _mm512_storeu_ps(m, _mm512_set1_ps(unit.m) * (c * _mm512_abs_ps(c)));
  const __m512 d = widen_codes(_mm512_maskz_cvtepu8_epi32(kAll, load_128(codes_v)));
  const __m512 root = _mm512_set1_ps(unit.root_v) * (d * d);
  _mm512_storeu_ps(v, root * root);
}

inline void LargestMoments::take(const GroupMoments& moments) {
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  const auto most = [&](std::uint32_t* so_far, const float* x) {
    const __m512i bits = _mm512_and_si512(_mm512_loadu_si512(x), magnitude);
    _mm512_storeu_si512(so_far, _mm512_maskz_max_epu32(kAll, _mm512_loadu_si512(so_far), bits));
  };
  most(m, moments.m);
  most(root_v, moments.root_v);
}

// As eight_randoms and eight_codes.
inline __m512 sixteen_randoms(__m512i shifted) {
  const __m512i bits = _mm512_or_si512(_mm512_and_si512(shifted, _mm512_set1_epi32(0x3FFF << 9)),
                                       _mm512_set1_epi32(0x3F800000 | 1 << 8));
  return _mm512_castsi512_ps(bits) - _mm512_set1_ps(1);
}

[[gnu::always_inline]] inline __m512i sixteen_codes(__m512 magnitude, float per_unit, int max_code,
                                                    __m512 random) {
  const __m512 units = _mm512_maskz_min_ps(kAll, magnitude * _mm512_set1_ps(per_unit),
                                           _mm512_set1_ps(static_cast<float>(max_code * max_code)));
  const __m512i floor = _mm512_maskz_cvttps_epi32(kAll, _mm512_maskz_sqrt_ps(kAll, units));
  const __m512 low = widen_codes(floor);
  const __m512 above = _mm512_fnmadd_ps(low, low, units);
  const __m512 odd = _mm512_fmadd_ps(low, _mm512_set1_ps(2), _mm512_set1_ps(1));
  const __mmask16 up = _mm512_cmp_ps_mask(random * odd, above, _CMP_LT_OQ);
  return _mm512_mask_add_epi32(floor, up, floor, _mm512_set1_epi32(1));
}

[[gnu::always_inline]] inline void encode_group(const GroupMoments& moments, Block8Factors per_unit,
                                                const GroupHash& hash, std::uint8_t* codes_m,
                                                std::uint8_t* codes_v) {
  const SixteenHashes noise = hash.sixteen();
  const __m512 m = _mm512_load_ps(moments.m);
  const __m512i code = sixteen_codes(_mm512_abs_ps(m), per_unit.m, kBlock8MaxM,
                                     sixteen_randoms(_mm512_maskz_slli_epi32(kAll, noise.bits, 7)));
  const __mmask16 negative = _mm512_cmp_ps_mask(m, _mm512_setzero_ps(), _CMP_LT_OQ);
  const __m512i signed_code = _mm512_mask_sub_epi32(code, negative, _mm512_setzero_si512(), code);
  const __m512 root = _mm512_load_ps(moments.root_v);
  const __m512i code_sq = sixteen_codes(root, per_unit.root_v, kBlock8MaxV,
                                        sixteen_randoms(_mm512_maskz_slli_epi32(kAll, noise.high, 7)));
  const __m512i least = _mm512_maskz_min_epu32(kAll, _mm512_castps_si512(root), _mm512_set1_epi32(1));
  store_128(codes_m, _mm512_maskz_cvtepi32_epi8(kAll, signed_code));
  store_128(codes_v, _mm512_maskz_cvtepi32_epi8(kAll, _mm512_maskz_max_epi32(kAll, code_sq, least)));
}

}  // namespace
}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
#endif
