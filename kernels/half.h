// SPDX-License-Identifier: BSD-3-Clause
// bfloat16 and float16 as bits. Everything here is `static`: the header is compiled into one object per
// instruction set, and an ordinary inline function would let the linker keep the AVX copy for everybody; and
// constexpr, which lets CUDA kernels call it too.
#pragma once

#include <cstdint>

namespace smet::kernels {

// The builtin and not std::bit_cast: that one is an inline function like any other.
static constexpr std::uint32_t float_bits(float x) {
  return __builtin_bit_cast(std::uint32_t, x);
}

static constexpr float bits_float(std::uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}

static constexpr float bf16_to_f32(std::uint16_t x) {
  return bits_float(static_cast<std::uint32_t>(x) << 16);
}

// To nearest, ties to even; a NaN stays a (quiet) NaN.
static constexpr std::uint16_t f32_to_bf16(float x) {
  const std::uint32_t bits = float_bits(x);
  const std::uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40U;
  return static_cast<std::uint16_t>((bits & 0x7FFFFFFFU) > 0x7F800000U ? nan : rounded);
}

static constexpr float f16_to_f32(std::uint16_t x) {
  const std::uint32_t sign = (x & 0x8000U) << 16;
  const std::uint32_t rest = x & 0x7FFFU;
  // A subnormal half is rest * 2^-24; the product is exact. A normal one shifts its exponent bias from 15 to
  // 127.
  if (rest < 0x400U) return bits_float(float_bits(static_cast<float>(rest) * 0x1p-24F) | sign);
  const std::uint32_t bias = rest >= 0x7C00U ? (255U - 31U) << 23 : (127U - 15U) << 23;
  return bits_float(((rest << 13) + bias) | sign);
}

// To nearest, ties to even; beyond 65,504 + half a unit infinity; a NaN stays a (quiet) NaN.
static constexpr std::uint16_t f32_to_f16(float x) {
  const std::uint32_t bits = float_bits(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t rest = bits & 0x7FFFFFFFU;
  std::uint32_t half = 0;
  if (rest > 0x7F800000U) {
    half = 0x7E00U | ((rest >> 13) & 0x3FFU);
  } else if (rest >= 0x477FF000U) {  // 65,520 and above
    half = 0x7C00U;
  } else if (rest < 0x38800000U) {  // below 2^-14: adding 0.5 leaves the subnormal's bits, rounded by the FPU
    half = float_bits(bits_float(rest) + 0.5F) - 0x3F000000U;
  } else {
    half = (rest - ((127U - 15U) << 23) + 0xFFFU + ((rest >> 13) & 1U)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace smet::kernels
