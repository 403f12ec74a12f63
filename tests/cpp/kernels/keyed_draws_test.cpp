// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/keyed_draws.h"

#include <bit>
#include <cmath>
#include <map>

#include "tests/cpp/problems.h"

namespace smet::test {
namespace {

using kernels::DrawPositionsArgs;
using kernels::DrawStream;

DrawPositionsArgs arguments(const Topology& topology, std::int64_t k, std::uint32_t update,
                            std::uint32_t* chosen) {
  return {topology.mask.data(),
          topology.rows,
          topology.cols,
          topology.rows * topology.cols - topology.nnz,
          k,
          0xFEEDFACECAFEULL,
          DrawStream::grow,
          update,
          chosen};
}

std::int64_t count_bits(const Buffer<std::uint32_t>& words) {
  std::int64_t count = 0;
  for (const std::uint32_t word : words) count += std::popcount(word);
  return count;
}

// Exactly k bits, none active, none in the padding; equal to the reference on every instruction set.
TEST(DrawPositions, EqualsReference) {
  for_each_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    const std::int64_t inactive = problem.rows * problem.cols - topology.nnz;
    for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, inactive / 10, inactive / 2,
                                 inactive / 2 + 1, inactive - 1, inactive}) {
      if (k < 0 || k > inactive) continue;
      SCOPED_TRACE("k = " + std::to_string(k) + " of " + std::to_string(inactive));
      Buffer<std::uint32_t> want(topology.mask.size());
      ASSERT_EQ(kernels::reference::draw_positions(arguments(topology, k, 3, want.data())), Status::ok);
      EXPECT_EQ(count_bits(want), k);
      for (std::int64_t w = 0; w < want.size(); ++w) ASSERT_EQ(want[w] & topology.mask[w], 0U);
      for_each_variant([&](const Executor& executor) {
        Buffer<std::uint32_t> got(topology.mask.size());
        std::fill(got.begin(), got.end(), ~0U);
        ASSERT_EQ(kernels::cpu::draw_positions(executor, arguments(topology, k, 3, got.data())), Status::ok);
        EXPECT_TRUE(same_bytes(got, want));
      });
    }
  });
}

// Enough draws for all threads, over several batches; rows end within a word.
TEST(DrawPositions, ManyDrawsEqualReference) {
  for (const auto& [cols, density] : {std::pair{std::int64_t{2999}, .1}, {std::int64_t{3008}, .6}}) {
    const Topology topology = make_topology({"large", 150, cols, density});
    const std::int64_t inactive = 150 * cols - topology.nnz;
    for (const std::int64_t k : {std::int64_t{8192}, inactive / 3, inactive / 2, inactive - inactive / 3}) {
      SCOPED_TRACE("k = " + std::to_string(k) + " of " + std::to_string(inactive));
      Buffer<std::uint32_t> want(topology.mask.size());
      Buffer<std::uint32_t> got(topology.mask.size());
      ASSERT_EQ(kernels::reference::draw_positions(arguments(topology, k, 5, want.data())), Status::ok);
      for_each_variant([&](const Executor& executor) {
        ASSERT_EQ(kernels::cpu::draw_positions(executor, arguments(topology, k, 5, got.data())), Status::ok);
        EXPECT_TRUE(same_bytes(got, want));
      });
    }
  }
}

// A count that is not the mask's, or a k that cannot be met, would never end: refused, nothing written.
TEST(DrawPositions, WrongCountsAreRefused) {
  const Topology topology = make_topology({"small", 3, 50, .5});
  Buffer<std::uint32_t> chosen(topology.mask.size());
  const Buffer<std::uint32_t> before = chosen;
  const std::int64_t inactive = 150 - topology.nnz;
  for (const auto& [k, count] : {std::pair{inactive + 1, inactive},
                                 {std::int64_t{-1}, inactive},
                                 {std::int64_t{1}, inactive + 1},
                                 {std::int64_t{1}, inactive - 1}}) {
    DrawPositionsArgs args = arguments(topology, k, 0, chosen.data());
    args.inactive = count;
    EXPECT_EQ(kernels::cpu::draw_positions(serial(), args), Status::invalid_argument);
    EXPECT_EQ(kernels::reference::draw_positions(args), Status::invalid_argument);
    EXPECT_TRUE(same_bytes(chosen, before));
  }
}

// How many standard deviations chi2 lies from its mean, for `cells` equally likely cells of mean `expected`.
double chi2_deviation(const std::map<std::uint32_t, int>& counts, int cells, double expected,
                      double variance) {
  double chi2 = 0;
  int seen = 0;
  for (const auto& [cell, count] : counts) {
    chi2 += (count - expected) * (count - expected) / variance;
    ++seen;
  }
  chi2 += (cells - seen) * expected * expected / variance;
  return (chi2 - (cells - 1)) / std::sqrt(2.0 * (cells - 1));
}

// T15. Every inactive position is chosen equally often, k below and above half of them. With k draws out of m
// without replacement a count has variance u (k/m) (1 - k/m) over u updates, and chi2, scaled by (m - 1) / m,
// has m - 1 degrees of freedom.
TEST(DrawPositions, T15UniformOverPositions) {
  Topology topology = make_topology({"small", 7, 45, .3});
  const std::int64_t inactive = 7 * 45 - topology.nnz;
  constexpr int kUpdates = 20000;
  for (const std::int64_t k : {inactive / 10, inactive - inactive / 10}) {
    std::map<std::uint32_t, int> counts;
    Buffer<std::uint32_t> chosen(topology.mask.size());
    for (std::uint32_t update = 0; update < kUpdates; ++update) {
      ASSERT_EQ(kernels::cpu::draw_positions(serial(), arguments(topology, k, update, chosen.data())),
                Status::ok);
      for (std::int64_t w = 0; w < chosen.size(); ++w) {
        for (std::uint32_t bits = chosen[w]; bits != 0; bits &= bits - 1) {
          ++counts[static_cast<std::uint32_t>(32 * w + std::countr_zero(bits))];
        }
      }
    }
    const double share = static_cast<double>(k) / static_cast<double>(inactive);
    const double variance =
        kUpdates * share * (1 - share) * static_cast<double>(inactive) / static_cast<double>(inactive - 1);
    EXPECT_LT(std::fabs(chi2_deviation(counts, static_cast<int>(inactive), kUpdates * share, variance)), 4);
  }
}

// T15. Every k-subset is equally likely: 2 and 3 of 5, the latter drawn by what is left out.
TEST(DrawPositions, T15UniformOverSubsets) {
  Topology topology(2, 4);
  for (const std::int64_t col : {0, 2}) topology.activate(0, col);
  topology.activate(1, 1);
  topology.derive();
  constexpr int kUpdates = 20000;
  for (const std::int64_t k : {2, 3}) {
    std::map<std::uint32_t, int> counts;
    for (std::uint32_t update = 0; update < kUpdates; ++update) {
      Buffer<std::uint32_t> chosen(2);
      ASSERT_EQ(kernels::cpu::draw_positions(serial(), arguments(topology, k, update, chosen.data())),
                Status::ok);
      ++counts[chosen[0] | chosen[1] << 4];
    }
    EXPECT_EQ(counts.size(), 10U);
    EXPECT_LT(std::fabs(chi2_deviation(counts, 10, kUpdates / 10.0, kUpdates / 10.0)), 4);
  }
}

}  // namespace
}  // namespace smet::test
