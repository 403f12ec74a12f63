// SPDX-License-Identifier: BSD-3-Clause
// The random bits of stochastic rounding: a function of (key, element) alone. `static constexpr` for the
// reasons given in half.h.
#pragma once

#include <cstdint>

namespace smet::kernels {

inline constexpr std::uint32_t kMix1 = 0x85EBCA6B;
inline constexpr std::uint32_t kMix2 = 0xC2B2AE35;

// What all elements of the same 2^32 start from.
static constexpr std::uint32_t hash32_start(std::uint64_t key, std::uint64_t i) {
  return static_cast<std::uint32_t>(key) + static_cast<std::uint32_t>(i >> 32) * 0x9E3779B9U;
}

// The last round before its last step, x ^ (x >> 16), which leaves the high half as it is.
static constexpr std::uint32_t hash32_round(std::uint32_t x, std::uint32_t high_key) {
  return (x ^ (x >> 13)) * kMix2 + high_key;
}

// x      = low32(i) * kMix1 + low32(key) + high32(i) * 0x9E3779B9
// x      = (x ^ (x >> 13)) * kMix2 + high32(key)
// hash32 = x ^ (x >> 16)
// The finaliser of MurmurHash3 (Appleby, public domain) without its first step, which does nothing for
// elements in a row: the first product is then an addition from one element to the next. For one key, 2^32
// elements in a row get every number once. Its key must be mixed already, as step_keys are: the low half
// moves all elements along one cycle of 2^32, and the high half alone would leave them correlated.
static constexpr std::uint32_t hash32(std::uint64_t key, std::uint64_t i) {
  const std::uint32_t x = hash32_round(static_cast<std::uint32_t>(i) * kMix1 + hash32_start(key, i),
                                       static_cast<std::uint32_t>(key >> 32));
  return x ^ (x >> 16);
}

}  // namespace smet::kernels
