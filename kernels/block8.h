// SPDX-License-Identifier: BSD-3-Clause
// The 8-bit codes of adamw_compact.h, one number at a time. `static constexpr` for the reasons given in
// half.h; the caller takes the square root, which is no constant expression.
#pragma once

#include "kernels/half.h"

namespace smet::kernels {

inline constexpr int kBlock8MaxM = 127;
inline constexpr int kBlock8MaxV = 255;

// What code 1 stands for.
static constexpr float block8_unit(float scale, int max_code) {
  return scale / static_cast<float>(max_code * max_code);
}

static constexpr float block8_m(float unit, std::uint8_t code) {
  const int c = code < 128 ? code : code - 256;
  return unit * static_cast<float>(c < 0 ? -c * c : c * c);
}
static constexpr float block8_sqrt_v(float unit, std::uint8_t code) {
  return unit * static_cast<float>(int{code} * int{code});
}

// Units in 1; 0 where a unit is too small to have a reciprocal, and everything is less than one: m below
// 2e-34, but no sqrt(v), which is at least 4e-23.
static constexpr float block8_per_unit(float unit) {
  return unit >= 0x1p-126F ? 1 / unit : 0;
}

// A magnitude in units, at most max_code^2. A magnitude that is not a number of units is as large as can be.
static constexpr float block8_units(float magnitude, float per_unit, int max_code) {
  const float most = static_cast<float>(max_code * max_code);
  const float units = magnitude * per_unit;
  return units < most ? units : most;
}

// The code of `units`, whose square root is `root`, by 16 random bits, of which it uses 14: the upper of two
// neighbours if (r + 1/2) / 2^14 < (units - low^2) / (2 low + 1), of which the left side times the
// denominator is exact. No random number is within 2^-15 of 0 or 1, and the roundings of `units` and `root`
// are less for every code up to 255: a number that is a code keeps it, and a root that is rounded up to the
// next code does not show.
static constexpr int block8_code(float units, float root, std::uint32_t noise) {
  const int low = static_cast<int>(root);
  const float random = (static_cast<float>((noise & 0xFFFFU) >> 2) + 0.5F) * 0x1p-14F;
  const float above = units - static_cast<float>(low * low);
  return random * static_cast<float>(2 * low + 1) < above ? low + 1 : low;
}

}  // namespace smet::kernels
