// SPDX-License-Identifier: BSD-3-Clause
// Eight lanes of 32 bits on AVX2: loads and stores of fp32 and bf16, and the shuffles that expand and
// compress. Only for kernels/cpu/isa.
#pragma once

#include "kernels/cpu/isa/lookup.h"

#ifdef __AVX2__
#include <immintrin.h>

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

inline __m256i load_256(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
inline void store_256(void* to, __m256i x) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), x);
}
inline __m128i load_128(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
inline void store_128(void* to, __m128i x) {
  _mm_storeu_si128(static_cast<__m128i*>(to), x);
}
inline __m128i load_64(const void* from) {
  return _mm_loadl_epi64(static_cast<const __m128i*>(from));
}
inline void store_64(void* to, __m128i x) {
  _mm_storel_epi64(static_cast<__m128i*>(to), x);
}

// A row of an 8-byte table as eight 32-bit lanes; 0x80 becomes negative.
inline __m256i lane_indices(const std::uint8_t* row) {
  return _mm256_cvtepi8_epi32(load_64(row));
}

inline __m256i widen_bf16(__m128i x) {
  return _mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16);
}

// To nearest even, as f32_to_bf16 of half.h.
inline __m128i narrow_bf16(__m256i bits) {
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF));
  const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F800000));
  const __m256i nan = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i result = _mm256_blendv_epi8(rounded, nan, is_nan);
  const __m256i packed = _mm256_packus_epi32(result, result);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

// Sixteen lanes of 32 bits, all below 2^16, as sixteen of 16.
inline __m256i narrow_16(__m256i low, __m256i high) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8);
}

// Lane b: the next value where bit b of `byte` is set, else the lane of `other`.
inline __m256i expand_lanes(__m256i values, __m256i other, std::uint32_t byte) {
  const __m256i index = lane_indices(kLookup.expand[byte]);
  return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(_mm256_permutevar8x32_epi32(values, index)),
                                              _mm256_castsi256_ps(other), _mm256_castsi256_ps(index)));
}

// The lanes whose bit in `byte` is set, moved to the front; what follows them is unspecified.
inline __m256i compress_lanes(__m256i x, std::uint32_t byte) {
  return _mm256_permutevar8x32_epi32(x, lane_indices(kLookup.compress[byte]));
}

}  // namespace
}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
#endif
