// SPDX-License-Identifier: BSD-3-Clause
// A float32 master weight as a bf16 weight and the 16 bits that it lacks, so that it costs two bytes more and
// not four, and is exact:
//   bits(master) = (bits(weight) << 16) + low       low is signed, arithmetic modulo 2^32
//   weight = (bits(master) + 0x8000) >> 16          to nearest, ties away from zero
//   low    = bits(master) - (weight << 16)
// A master that is NaN becomes the NaN 0x7FC0 with its sign, low 0. A sum that is NaN stands for the weight
// alone: so a weight that was set to zero or infinity from outside, beside what `low` was then, is that
// number. `static constexpr` for the reasons given in half.h.
#pragma once

#include "kernels/half.h"

namespace smet::kernels {

static constexpr bool master_is_nan(std::uint32_t bits) {
  return (bits & 0x7FFFFFFFU) > 0x7F800000U;
}

static constexpr float master_weight(std::uint16_t weight, std::int16_t low) {
  const std::uint32_t high = static_cast<std::uint32_t>(weight) << 16;
  const std::uint32_t bits = high + static_cast<std::uint32_t>(static_cast<std::int32_t>(low));
  return bits_float(master_is_nan(bits) ? high : bits);
}

// The two halves of a master.
static constexpr std::uint16_t master_high(float master) {
  const std::uint32_t bits = float_bits(master);
  const std::uint32_t nan = ((bits >> 16) & 0x8000U) | 0x7FC0U;
  return static_cast<std::uint16_t>(master_is_nan(bits) ? nan : (bits + 0x8000U) >> 16);
}
static constexpr std::int16_t master_low(float master) {
  const std::uint32_t bits = float_bits(master);
  return static_cast<std::int16_t>(master_is_nan(bits) ? 0 : bits & 0xFFFFU);
}

}  // namespace smet::kernels
