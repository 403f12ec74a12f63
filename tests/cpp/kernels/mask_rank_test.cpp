// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/mask_rank.h"

#include <set>

#include "tests/cpp/problems.h"

namespace smet::test {
namespace {

using kernels::MaskHashArgs;
using kernels::MaskRankArgs;

TEST(MaskRank, EqualsReferenceAndDefinition) {
  for_each_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    Buffer<std::int32_t> rank(topology.rank.size());
    std::int64_t nnz = -1;
    MaskRankArgs args = {topology.mask.data(), rank.data(), problem.rows, problem.cols, &nnz};
    ASSERT_EQ(kernels::reference::mask_rank(serial(), args), Status::ok);
    EXPECT_EQ(nnz, topology.nnz);
    EXPECT_TRUE(same_bytes(rank, topology.rank));
    for_each_variant([&](const Executor& executor) {
      Buffer<std::int32_t> got(topology.rank.size());
      nnz = -1;
      args.rank = got.data();
      ASSERT_EQ(kernels::cpu::mask_rank(executor, args), Status::ok);
      EXPECT_EQ(nnz, topology.nnz);
      EXPECT_TRUE(same_bytes(got, topology.rank));
    });
  });
}

TEST(MaskHash, EqualsReference) {
  for_each_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    const MaskHashArgs args = {topology.mask.data(), problem.rows, problem.cols};
    const std::uint64_t want = kernels::reference::mask_hash(serial(), args);
    for_each_variant(
        [&](const Executor& executor) { EXPECT_EQ(kernels::cpu::mask_hash(executor, args), want); });
  });
}

// One weight moved anywhere, and the same words in another shape, give other hashes.
TEST(MaskHash, EveryPositionCounts) {
  std::set<std::uint64_t> seen;
  const std::int64_t rows = 3;
  const std::int64_t cols = 70;
  for (std::int64_t position = 0; position < rows * cols; ++position) {
    Topology topology(rows, cols);
    topology.activate(position / cols, position % cols);
    seen.insert(kernels::cpu::mask_hash(serial(), {topology.mask.data(), rows, cols}));
    if (position < 64) seen.insert(kernels::cpu::mask_hash(serial(), {topology.mask.data(), rows, 96}));
  }
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(rows * cols + 64));
}

TEST(HasPadBits, SeesEveryPadBitAndNoOther) {
  for (const std::int64_t cols : {1, 31, 32, 33, 64, 70}) {
    Topology topology = make_topology({"full", 3, cols, 1});
    EXPECT_FALSE(kernels::has_pad_bits(topology.mask.data(), 3, cols));
    for (std::int64_t row = 0; row < 3; ++row) {
      for (std::int64_t col = cols; col < 32 * kernels::words_per_row(cols); ++col) {
        Topology bad = topology;
        bad.activate(row, col);
        EXPECT_TRUE(kernels::has_pad_bits(bad.mask.data(), 3, cols)) << row << ", " << col;
      }
    }
  }
  EXPECT_FALSE(kernels::has_pad_bits(nullptr, 0, 33));
}

}  // namespace
}  // namespace smet::test
