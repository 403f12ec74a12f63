// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/philox.h"

#include <gtest/gtest.h>

#include <set>

#include "kernels/cpu/isa_kernels.h"
#include "kernels/keyed_draws.h"
#include "tests/cpp/problems.h"

namespace smet::test {
namespace {

using kernels::DrawStream;
using kernels::PhiloxCounter;
using kernels::PhiloxKey;

// T10. The three "philox4x32 10" lines of tests/kat_vectors in Random123 (D. E. Shaw Research).
TEST(Philox, T10KnownAnswers) {
  struct {
    PhiloxCounter counter;
    PhiloxKey key;
    PhiloxCounter want;
  } const vectors[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const auto& vector : vectors) {
    EXPECT_EQ(kernels::philox4x32_10(vector.counter, vector.key), vector.want);
  }
}

// T10. keyed_draw is the header's function of (key, stream, update, j), and the batches of every instruction
// set are that function too, across a carry of the counter's low word.
TEST(Philox, T10DrawsOfEveryInstructionSet) {
  const std::uint64_t key = 0x0123456789ABCDEFULL;
  const std::uint32_t update = 77;
  for (const std::uint64_t half : {std::uint64_t{0}, std::uint64_t{0xFFFFFFFAU}}) {
    for (const std::int64_t count : {1, 15, 16, 37}) {
      for_each_variant([&](const Executor&) {
        Buffer<std::uint64_t> draws(2 * count);
        kernels::cpu::isa_kernels()->mask->draws(
            {key, static_cast<std::uint32_t>(DrawStream::grow), update, half, count, draws.data()});
        for (std::int64_t i = 0; i < count; ++i) {
          const std::uint64_t h = half + static_cast<std::uint64_t>(i);
          const PhiloxCounter want = kernels::philox4x32_10(
              {static_cast<std::uint32_t>(h), static_cast<std::uint32_t>(h >> 32), update, 1},
              {0x89ABCDEF, 0x01234567});
          ASSERT_EQ(draws[2 * i], want[0] | std::uint64_t{want[1]} << 32);
          ASSERT_EQ(draws[2 * i + 1], want[2] | std::uint64_t{want[3]} << 32);
          ASSERT_EQ(draws[2 * i], kernels::keyed_draw(key, DrawStream::grow, update, 2 * h));
          ASSERT_EQ(draws[2 * i + 1], kernels::keyed_draw(key, DrawStream::grow, update, 2 * h + 1));
        }
      });
    }
  }
}

TEST(Philox, StreamsKeysAndUpdatesDiffer) {
  std::set<std::uint64_t> seen;
  for (const auto stream :
       {DrawStream::initial, DrawStream::grow, DrawStream::scores, DrawStream::init_values}) {
    for (const std::uint64_t key : {0ULL, 1ULL, 1ULL << 32}) {
      for (const std::uint32_t update : {0U, 1U, 0xFFFFFFFFU}) {
        for (std::uint64_t j = 0; j < 10; ++j) seen.insert(kernels::keyed_draw(key, stream, update, j));
      }
    }
  }
  EXPECT_EQ(seen.size(), 4U * 3U * 3U * 10U);
}

}  // namespace
}  // namespace smet::test
