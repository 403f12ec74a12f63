// SPDX-License-Identifier: BSD-3-Clause
// Buffers of numbers in any dtype, for the kernel tests.
#pragma once

#include <cmath>
#include <limits>

#include "kernels/half.h"
#include "tests/cpp/problems.h"

namespace smet::test {

inline void store(Bytes& buffer, DType dtype, std::int64_t i, double x) {
  unsigned char* at = buffer.data() + i * kernels::element_size(dtype);
  const auto single = static_cast<float>(x);
  const std::uint16_t half =
      dtype == DType::bf16 ? kernels::f32_to_bf16(single) : kernels::f32_to_f16(single);
  if (dtype == DType::f64) {
    std::memcpy(at, &x, sizeof x);
  } else if (dtype == DType::f32) {
    std::memcpy(at, &single, sizeof single);
  } else {
    std::memcpy(at, &half, sizeof half);
  }
}

inline double load(const Bytes& buffer, DType dtype, std::int64_t i) {
  const unsigned char* at = buffer.data() + i * kernels::element_size(dtype);
  double wide = 0;
  float single = 0;
  std::uint16_t half = 0;
  if (dtype == DType::f64) {
    std::memcpy(&wide, at, sizeof wide);
    return wide;
  }
  if (dtype == DType::f32) {
    std::memcpy(&single, at, sizeof single);
    return single;
  }
  std::memcpy(&half, at, sizeof half);
  return dtype == DType::bf16 ? kernels::bf16_to_f32(half) : kernels::f16_to_f32(half);
}

inline Bytes numbers(DType dtype, std::int64_t size) {
  return Bytes(size * kernels::element_size(dtype));
}

// Normal numbers of the given scale.
inline Bytes normal_numbers(DType dtype, std::int64_t size, std::uint64_t seed, double scale = 1) {
  Bytes buffer = numbers(dtype, size);
  Random random(seed);
  for (std::int64_t i = 0; i < size; ++i) store(buffer, dtype, i, scale * random.normal());
  return buffer;
}

// What kernels stumble over: both zeros, denormals, infinities, NaN if asked, ties, and normal numbers.
inline Bytes awkward_numbers(DType dtype, std::int64_t size, std::uint64_t seed, bool with_nan) {
  Bytes buffer = numbers(dtype, size);
  Random random(seed);
  const double infinity = std::numeric_limits<double>::infinity();
  const double special[] = {0.0, -0.0, 1e-40, -1e-40, 3e-8, infinity, -infinity, 0.5, -0.5, 0.25};
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int64_t pick = random.below(40);
    double x = random.normal();
    if (pick < 10) x = special[pick];
    if (pick == 10 && with_nan) x = std::numeric_limits<double>::quiet_NaN();
    store(buffer, dtype, i, x);
  }
  return buffer;
}

// Bytes that betray an element which was not written, or should not have been.
inline Bytes untouched(DType dtype, std::int64_t size) {
  Bytes buffer = numbers(dtype, size);
  std::memset(buffer.data(), 0x5A, static_cast<std::size_t>(buffer.size()));
  return buffer;
}

}  // namespace smet::test
