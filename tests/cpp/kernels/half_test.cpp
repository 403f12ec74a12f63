// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "tests/cpp/problems.h"

namespace smet::test {
namespace {

using kernels::bits_float;
using kernels::float_bits;

struct Format {
  const char* name;
  int exponent_bits, fraction_bits;
  float (*widen)(std::uint16_t);
  std::uint16_t (*narrow)(float);
};

const Format kFormats[] = {
    {"bf16", 8, 7, kernels::bf16_to_f32, kernels::f32_to_bf16},
    {"f16", 5, 10, kernels::f16_to_f32, kernels::f32_to_f16},
};

// The number that `bits` stand for, from the definition of the format; infinity and NaN aside.
double decode(const Format& format, unsigned bits) {
  const unsigned fraction = bits & ((1U << format.fraction_bits) - 1);
  const unsigned exponent = bits >> format.fraction_bits & ((1U << format.exponent_bits) - 1);
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  const double significand = fraction * std::ldexp(1.0, -format.fraction_bits) + (exponent == 0 ? 0 : 1);
  const double magnitude = std::ldexp(significand, std::max(static_cast<int>(exponent), 1) - bias);
  return bits >> 15 != 0 ? -magnitude : magnitude;
}

TEST(Half, EveryNumberWidensToItself) {
  for (const Format& format : kFormats) {
    SCOPED_TRACE(format.name);
    const unsigned first_special = ((1U << format.exponent_bits) - 1) << format.fraction_bits;
    for (unsigned bits = 0; bits < 65536; ++bits) {
      const float x = format.widen(static_cast<std::uint16_t>(bits));
      const unsigned magnitude = bits & 0x7FFFU;
      if (magnitude < first_special) {
        ASSERT_EQ(static_cast<double>(x), decode(format, bits)) << bits;
      } else if (magnitude == first_special) {
        ASSERT_TRUE(std::isinf(x));
      } else {
        ASSERT_TRUE(std::isnan(x));
      }
      ASSERT_EQ(std::signbit(x), bits >> 15 != 0) << bits;
      if (magnitude <= first_special) {
        ASSERT_EQ(format.narrow(x), bits);
      }
    }
  }
}

// Between two neighbours: the nearer one, and the even one at the middle.
TEST(Half, NarrowsToNearestEven) {
  for (const Format& format : kFormats) {
    SCOPED_TRACE(format.name);
    const unsigned infinity = ((1U << format.exponent_bits) - 1) << format.fraction_bits;
    for (unsigned low = 0; low + 1 < infinity; ++low) {
      const unsigned high = low + 1;
      const double middle = (decode(format, low) + decode(format, high)) / 2;
      const auto exact = static_cast<float>(middle);
      ASSERT_EQ(static_cast<double>(exact), middle);
      const unsigned even = low % 2 == 0 ? low : high;
      for (const unsigned sign : {0U, 0x8000U}) {
        const auto signed_bits = [&](float x) { return bits_float(float_bits(x) | sign << 16); };
        ASSERT_EQ(format.narrow(signed_bits(exact)), even | sign);
        ASSERT_EQ(format.narrow(signed_bits(std::nextafter(exact, 0.0F))), low | sign);
        ASSERT_EQ(format.narrow(signed_bits(std::nextafter(exact, std::numeric_limits<float>::infinity()))),
                  high | sign);
      }
    }
  }
}

TEST(Half, OverflowAndNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(kernels::f32_to_f16(65519.996F), 0x7BFF);
  EXPECT_EQ(kernels::f32_to_f16(65520.0F), 0x7C00);
  EXPECT_EQ(kernels::f32_to_f16(-1e30F), 0xFC00);
  EXPECT_EQ(kernels::f32_to_f16(infinity), 0x7C00);
  EXPECT_EQ(kernels::f32_to_bf16(std::numeric_limits<float>::max()), 0x7F80);
  for (const std::uint32_t bits : {0x7F800001U, 0x7FC00000U, 0xFFFFFFFFU, 0x7F801000U, 0xFF800001U}) {
    EXPECT_TRUE(std::isnan(kernels::bf16_to_f32(kernels::f32_to_bf16(bits_float(bits)))));
    EXPECT_TRUE(std::isnan(kernels::f16_to_f32(kernels::f32_to_f16(bits_float(bits)))));
  }
}

}  // namespace
}  // namespace smet::test
