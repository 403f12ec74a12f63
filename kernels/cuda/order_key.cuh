// SPDX-License-Identifier: BSD-3-Clause
// Unsigned integers that order as numbers do.
#pragma once

#include "kernels/cuda/elements.cuh"

namespace smet::kernels::cuda {

template <typename Type>
inline constexpr int kKeyBits = 8 * static_cast<int>(sizeof(typename Type::Storage));

template <typename Type>
__device__ __forceinline__ std::uint64_t number_bits(typename Type::Storage x) {
  if constexpr (sizeof(x) == 8) {
    return __builtin_bit_cast(std::uint64_t, x);
  } else if constexpr (sizeof(x) == 4) {
    return float_bits(x);
  } else {
    return x;
  }
}

// The bits of infinity.
template <typename Type>
inline constexpr std::uint64_t kInfinity = 0x7F800000U;
template <>
inline constexpr std::uint64_t kInfinity<F64> = 0x7FF0000000000000ULL;
template <>
inline constexpr std::uint64_t kInfinity<Bf16> = 0x7F80U;
template <>
inline constexpr std::uint64_t kInfinity<F16> = 0x7C00U;

// 0 for NaN, else the bits of |x|, plus one.
template <typename Type>
__device__ __forceinline__ std::uint64_t magnitude_key(typename Type::Storage x) {
  constexpr std::uint64_t kSign = std::uint64_t{1} << (kKeyBits<Type> - 1);
  const std::uint64_t magnitude = number_bits<Type>(x) & ~kSign;
  return magnitude > kInfinity<Type> ? 0 : magnitude + 1;
}

// 0 for NaN; both zeros have one key.
template <typename Type>
__device__ __forceinline__ std::uint64_t signed_key(typename Type::Storage x) {
  constexpr std::uint64_t kSign = std::uint64_t{1} << (kKeyBits<Type> - 1);
  const std::uint64_t bits = number_bits<Type>(x);
  const std::uint64_t magnitude = bits & ~kSign;
  if (magnitude > kInfinity<Type>) return 0;
  return bits > kSign ? kSign - magnitude : kSign + magnitude;
}

}  // namespace smet::kernels::cuda
