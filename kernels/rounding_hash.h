// SPDX-License-Identifier: BSD-3-Clause
// The random bits of stochastic rounding: a function of (key, element) alone. `static constexpr` for the
// reasons given in half.h.
#pragma once

#include <cstdint>

namespace smet::kernels {

// The finaliser of MurmurHash3 (Appleby, public domain): a bijection of 32 bits with full avalanche.
static constexpr std::uint32_t mix32(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85EBCA6BU;
  x = (x ^ (x >> 13)) * 0xC2B2AE35U;
  return x ^ (x >> 16);
}

// hash32(key, i) = mix32(mix32(low32(i) ^ low32(key)) + high32(key) + high32(i) * 0x9E3779B9)
static constexpr std::uint32_t hash32(std::uint64_t key, std::uint64_t i) {
  const std::uint32_t inner = mix32(static_cast<std::uint32_t>(i) ^ static_cast<std::uint32_t>(key));
  const std::uint32_t high = static_cast<std::uint32_t>(i >> 32) * 0x9E3779B9U;
  return mix32(inner + static_cast<std::uint32_t>(key >> 32) + high);
}

}  // namespace smet::kernels
