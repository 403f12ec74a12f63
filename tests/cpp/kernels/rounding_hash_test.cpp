// SPDX-License-Identifier: BSD-3-Clause
// What rounding at random asks of its bits: every value equally often, and no correlation between neighbours,
// between the two moments of a weight, or between a weight's steps. Bounds are five standard deviations.
#include "kernels/rounding_hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cohort_table.h"

namespace smet::test {
namespace {

using kernels::hash32;

constexpr std::int64_t kDraws = 1 << 20;

// Of kDraws elements in a row, across the end of a stretch of 2^32 for the second.
constexpr std::uint64_t kFirst[] = {0, (std::uint64_t{3} << 32) - kDraws / 2, 123'456'789};
constexpr std::uint64_t kKeys[] = {0, 1, 0x5EED, 0xFFFFFFFF00000000, 0x9E3779B97F4A7C15};

std::vector<std::uint32_t> draw(std::uint64_t key, std::uint64_t first) {
  std::vector<std::uint32_t> bits;
  for (std::int64_t i = 0; i < kDraws; ++i)
    bits.push_back(hash32(key, first + static_cast<std::uint64_t>(i)));
  return bits;
}

// One 16-bit half as a number of mean 0 and variance 1.
double normed(std::uint32_t bits, int shift) {
  return (((bits >> shift) & 0xFFFFU) - 32767.5) / (65536 / std::sqrt(12.0));
}

void expect_uncorrelated(const std::vector<double>& a, const std::vector<double>& b, const char* what) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  const auto n = static_cast<double>(a.size());
  EXPECT_LT(std::fabs(sum / n), 5 / std::sqrt(n)) << what;
}

std::vector<double> normed(const std::vector<std::uint32_t>& bits, int shift) {
  std::vector<double> numbers;
  for (const std::uint32_t x : bits) numbers.push_back(normed(x, shift));
  return numbers;
}

TEST(RoundingHash, IsTheHeadersFormula) {
  const std::uint64_t key = 0x0123456789ABCDEF;
  const std::uint64_t i = 0x7'89ABCDEF;
  auto x = static_cast<std::uint32_t>(i * 0x85EBCA6BULL + 0x89ABCDEF + 7 * 0x9E3779B9ULL);
  x ^= x >> 13;
  x = x * 0xC2B2AE35U + 0x01234567U;
  EXPECT_EQ(hash32(key, i), x ^ (x >> 16));
}

TEST(RoundingHash, ElementsInARowGetDifferentNumbers) {
  for (const std::uint64_t key : kKeys) {
    std::vector<std::uint32_t> bits = draw(key, kFirst[2]);
    std::sort(bits.begin(), bits.end());
    EXPECT_EQ(std::adjacent_find(bits.begin(), bits.end()), bits.end()) << key;
  }
}

// Both halves, by their highest twelve bits and by their lowest.
void expect_uniform(const std::vector<std::uint32_t>& bits, std::uint64_t what) {
  constexpr int kBuckets = 4096;
  for (const int shift : {0, 4, 16, 20}) {
    std::vector<double> counts(kBuckets);
    for (const std::uint32_t x : bits) ++counts[x >> shift & (kBuckets - 1)];
    double chi_squared = 0;
    const double expected = static_cast<double>(kDraws) / kBuckets;
    for (const double count : counts) chi_squared += (count - expected) * (count - expected) / expected;
    EXPECT_LT(chi_squared, kBuckets - 1 + 5 * std::sqrt(2.0 * (kBuckets - 1))) << what << " shift " << shift;
  }
}

TEST(RoundingHash, HalvesAreUniform) {
  for (const std::uint64_t key : kKeys) {
    for (const std::uint64_t first : kFirst) expect_uniform(draw(key, first), key);
  }
}

TEST(RoundingHash, NeighboursAndHalvesAreUncorrelated) {
  for (const std::uint64_t key : kKeys) {
    for (const std::uint64_t first : kFirst) {
      const std::vector<std::uint32_t> bits = draw(key, first);
      expect_uncorrelated(normed(bits, 0), normed(bits, 16), "low and high half");
      for (const int lag : {1, 2, 3, 4, 8, 16, 256, 1024}) {
        const std::vector<std::uint32_t> here(bits.begin(), bits.end() - lag);
        const std::vector<std::uint32_t> there(bits.begin() + lag, bits.end());
        for (const int shift : {0, 16}) expect_uncorrelated(normed(here, shift), normed(there, shift), "lag");
      }
    }
  }
}

// One weight at one step after another.
TEST(RoundingHash, StepsAreUniformAndUncorrelated) {
  for (const std::uint64_t i : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1'000'000'007}}) {
    std::vector<std::uint32_t> bits;
    for (std::int64_t step = 0; step < kDraws; ++step) {
      bits.push_back(hash32(kernels::step_keys(1, 5, step).moments, i));
    }
    expect_uniform(bits, i);
    const std::vector<std::uint32_t> before(bits.begin(), bits.end() - 1);
    const std::vector<std::uint32_t> after(bits.begin() + 1, bits.end());
    for (const int shift : {0, 16}) {
      expect_uncorrelated(normed(before, shift), normed(after, shift), "steps");
    }
  }
}

}  // namespace
}  // namespace smet::test
