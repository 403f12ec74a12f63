// SPDX-License-Identifier: BSD-3-Clause
// Device functions of one thread, against examples worked by hand from CUDA's math API reference.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cuda/shared.cuh"

namespace {

TEST(Intrinsics, Bits) {
  EXPECT_EQ(__popc(0xF0F00001U), 9);
  EXPECT_EQ(__popcll(0xF0F0000100000001ULL), 10);
  EXPECT_EQ(__ffs(0), 0);
  EXPECT_EQ(__ffs(8), 4);
  EXPECT_EQ(__ffsll(1LL << 40), 41);
  EXPECT_EQ(__clz(0), 32);
  EXPECT_EQ(__clz(1), 31);
  EXPECT_EQ(__clz(-1), 0);
  EXPECT_EQ(__clzll(0), 64);
  EXPECT_EQ(__clzll(1), 63);
  EXPECT_EQ(__brev(0x00000001U), 0x80000000U);
  EXPECT_EQ(__brev(0x12345678U), 0x1E6A2C48U);
  EXPECT_EQ(__umulhi(0xFFFFFFFFU, 0xFFFFFFFFU), 0xFFFFFFFEU);
  EXPECT_EQ(__umul64hi(~0ULL, ~0ULL), ~0ULL - 1);
}

TEST(Intrinsics, BytesAndShifts) {
  EXPECT_EQ(__byte_perm(0x03020100U, 0x07060504U, 0x7531U), 0x07050301U);
  EXPECT_EQ(__byte_perm(0x80020100U, 0x07060504U, 0xB840U), 0xFF000400U);  // bit 3: the byte's sign
  EXPECT_EQ(__funnelshift_l(0x80000001U, 0x00000001U, 1), 0x00000003U);
  EXPECT_EQ(__funnelshift_r(0x80000001U, 0x00000001U, 1), 0xC0000000U);
  EXPECT_EQ(__funnelshift_l(5U, 9U, 32), 9U);  // the shift counts modulo 32
  EXPECT_EQ(__funnelshift_r(5U, 9U, 32), 5U);
}

TEST(Intrinsics, Casts) {
  EXPECT_EQ(__float_as_uint(-1.0F), 0xBF800000U);
  EXPECT_EQ(__uint_as_float(0x3F800000U), 1.0F);
  EXPECT_EQ(__float_as_int(-0.0F), std::numeric_limits<int>::min());
  EXPECT_EQ(__int_as_float(0x40000000), 2.0F);
  EXPECT_EQ(__double_as_longlong(1.0), 0x3FF0000000000000LL);
  EXPECT_EQ(__longlong_as_double(0x4000000000000000LL), 2.0);
}

TEST(Intrinsics, Rounding) {
  const float third = 1.0F / 3;
  // A fused operation keeps what the two roundings of the separate ones lose.
  EXPECT_EQ(__fadd_rn(__fmul_rn(third, 3.0F), -1.0F), 0.0F);
  EXPECT_NE(__fmaf_rn(third, 3.0F, -1.0F), 0.0F);
  EXPECT_EQ(__fdiv_rn(1.0F, 3.0F), third);
  EXPECT_EQ(__frcp_rn(3.0F), third);
  EXPECT_EQ(__fsqrt_rn(2.0F), 1.41421354F);
  EXPECT_EQ(__double2float_rn(1.0 + std::ldexp(1.0, -25)), 1.0F);
}

TEST(Intrinsics, MinAndMaxIgnoreOneNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(min(nan, 1.0F), 1.0F);
  EXPECT_EQ(max(1.0F, nan), 1.0F);
  EXPECT_EQ(min(-3, 2), -3);
  EXPECT_EQ(max(3U, 2U), 3U);
}

}  // namespace
