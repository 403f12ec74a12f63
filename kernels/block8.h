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

// A magnitude in units, at most max_code^2. A magnitude that is not a number of units is as large as can be.
static constexpr float block8_units(float magnitude, float unit, int max_code) {
  const float most = static_cast<float>(max_code * max_code);
  const float units = magnitude / unit;
  return units < most ? units : most;
}

// The code of `units`, whose square root is `root`, by 16 random bits, of which it uses 14: then a number
// that is a code keeps it for all random bits, although `units` is rounded.
static constexpr int block8_code(float units, float root, int max_code, std::uint32_t noise) {
  const int low = static_cast<int>(root);
  if (low >= max_code) return max_code;
  const float share = (units - static_cast<float>(low * low)) / static_cast<float>(2 * low + 1);
  return (static_cast<float>((noise & 0xFFFFU) >> 2) + 0.5F) * 0x1p-14F < share ? low + 1 : low;
}

}  // namespace smet::kernels
