// SPDX-License-Identifier: BSD-3-Clause
// Seeded bugs that only the thread sanitizer finds for certain: a schedule may hide them.
#include "seeded_runs.h"

namespace seeded {
namespace {

TEST(SeededBugs, CorrectKernelsHaveNoRace) {
  EXPECT_EQ((run_unpack<float, Bug::none>(Layer(), 303, 1)), "");
  EXPECT_EQ(run_pack<Bug::none>(), "");
  EXPECT_EQ(run_sum<Bug::none>(), "");
}

TEST(SeededBugs, MissingBarrierBeforeRead) {
  expect_found(run_pack<Bug::missing_barrier_before_read>(), "data race");
}

TEST(SeededBugs, MissingBarrierAfterRead) {
  expect_found(run_pack<Bug::missing_barrier_after_read>(), "data race");
}

// All lanes meet in a shuffle, so every schedule gives the right values; the order of memory is still
// missing.
TEST(SeededBugs, ShuffleAsBarrier) {
  const std::string found = run_pack<Bug::shuffle_as_barrier>();
  expect_found(found, "data race");
  expect_found(found, "shared array 'stage' of 512 bytes");
}

TEST(SeededBugs, MissingBlockBarrier) {
  expect_found(run_sum<Bug::missing_block_barrier>(), "shared array 'partial' of 128 bytes");
}

TEST(SeededBugs, InterBlockRace) {
  const std::string found = run_sum<Bug::inter_block_race>();
  expect_found(found, "data race");
  expect_found(found, "global memory");
}

// The same race is not there for a check that orders blocks: the two modes differ.
TEST(SeededBugs, InterBlockRaceNeedsUnorderedBlocks) {
  std::vector<int> x(5 * 96, 1);
  int total = 0;
  const gpusim::With with({.schedule = {}, .unordered_blocks = 1});
  gpusim::launch({.grid = {5}, .block = {96}}, sum<Bug::inter_block_race>, x.data(), 480, &total);
  EXPECT_EQ(total, 480);
}

}  // namespace
}  // namespace seeded
