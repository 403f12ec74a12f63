// SPDX-License-Identifier: BSD-3-Clause
// The random bits of stochastic rounding: a function of (key, element) alone. `static constexpr` for the
// reasons given in half.h.
#pragma once

#include <cstdint>

namespace smet::kernels {

inline constexpr std::uint32_t kMix1 = 0x85EBCA6B;
inline constexpr std::uint32_t kMix2 = 0xC2B2AE35;

// The finaliser of MurmurHash3 (Appleby, public domain), a bijection of 32 bits with full avalanche, with
// `middle` added between its two rounds.
static constexpr std::uint32_t mix32(std::uint32_t x, std::uint32_t middle) {
  x = (x ^ (x >> 16)) * kMix1 + middle;
  x = (x ^ (x >> 13)) * kMix2;
  return x ^ (x >> 16);
}

// What hash32 adds for elements of the same 2^32.
static constexpr std::uint32_t hash32_middle(std::uint64_t key, std::uint64_t i) {
  return static_cast<std::uint32_t>(key >> 32) + static_cast<std::uint32_t>(i >> 32) * 0x9E3779B9U;
}

// hash32(key, i) = mix32(low32(i) ^ low32(key), high32(key) + high32(i) * 0x9E3779B9): for one key, 2^32
// elements in a row get every number once.
static constexpr std::uint32_t hash32(std::uint64_t key, std::uint64_t i) {
  return mix32(static_cast<std::uint32_t>(i) ^ static_cast<std::uint32_t>(key), hash32_middle(key, i));
}

}  // namespace smet::kernels
