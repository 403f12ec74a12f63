// SPDX-License-Identifier: BSD-3-Clause
// The random bits of stochastic rounding: a function of (key, element) alone. `static constexpr` for the
// reasons given in half.h.
#pragma once

#include <cstdint>

namespace smet::kernels {

inline constexpr std::uint32_t kMix1 = 0x85EBCA6B;
inline constexpr std::uint32_t kMix2 = 0xC2B2AE35;

// What a run of elements, whose indices agree in their high words, has in common.
struct RunHash {
  std::uint32_t start, high_key;
};

static constexpr RunHash hash32_run(std::uint64_t key, std::uint64_t first) {
  const std::uint32_t high = static_cast<std::uint32_t>(first >> 32) * 0x9E3779B9U;
  return {static_cast<std::uint32_t>(first) * kMix1 + static_cast<std::uint32_t>(key) + high,
          static_cast<std::uint32_t>(key >> 32)};
}

// hash32(key, first + lane).
static constexpr std::uint32_t hash32(RunHash run, int lane) {
  std::uint32_t x = run.start + static_cast<std::uint32_t>(lane) * kMix1;
  x = (x ^ (x >> 13)) * kMix2 + run.high_key;
  return x ^ (x >> 16);
}

// x      = low32(i) * kMix1 + low32(key) + high32(i) * 0x9E3779B9
// x      = (x ^ (x >> 13)) * kMix2 + high32(key)
// hash32 = x ^ (x >> 16)
// The finaliser of MurmurHash3 (Appleby, public domain) without its first step, which does nothing for
// elements in a row: the first product is then an addition from one element to the next. For one key, 2^32
// elements in a row get every number once. Its key must be mixed already, as step_keys are: the low half
// moves all elements along one cycle of 2^32, and the high half alone would leave them correlated.
static constexpr std::uint32_t hash32(std::uint64_t key, std::uint64_t i) {
  return hash32(hash32_run(key, i), 0);
}

}  // namespace smet::kernels
