// SPDX-License-Identifier: BSD-3-Clause
// Seeded bugs that the runtime, its NaNs, or the address and undefined-behaviour sanitizers must find.
#include "seeded_runs.h"

namespace seeded {
namespace {

TEST(SeededBugs, CorrectKernelsPass) {
  EXPECT_EQ((run_unpack<float, Bug::none>(Layer(), 304)), "");
  EXPECT_EQ((run_unpack<float, Bug::none>(Layer(), 303, 1)), "");
  EXPECT_EQ((run_unpack<std::uint16_t, Bug::none>(Layer(), 301, 3)), "");
  EXPECT_EQ((run_unpack<float, Bug::none>(Layer(301), 301)), "");
  EXPECT_EQ(run_unpack_far<Bug::none>(), "");
  EXPECT_EQ(run_pack<Bug::none>(), "");
  EXPECT_EQ(run_sum<Bug::none>(), "");
}

// The sanitizers end the process; their report follows the line that names the CUDA thread.
TEST(SeededBugs, TailOverrun) {
  EXPECT_DEATH((run_unpack<float, Bug::tail_overrun>(Layer(301), 304)),
               "gpusim: block \\(2,0,0\\) thread \\(11,0,0\\).*heap-buffer-overflow");
}

TEST(SeededBugs, UnalignedVectorStore) {
  EXPECT_DEATH((run_unpack<float, Bug::unaligned_store>(Layer(), 301)), "misaligned address");
}

TEST(SeededBugs, WrongAlignmentForOneDtype) {
  EXPECT_EQ((run_unpack<std::uint16_t, Bug::wrong_alignment_for_one_dtype>(Layer(), 302)), "");
  EXPECT_DEATH((run_unpack<float, Bug::wrong_alignment_for_one_dtype>(Layer(), 302)), "misaligned address");
}

TEST(SeededBugs, OffByOneRank) {
  EXPECT_DEATH((run_unpack<float, Bug::off_by_one_rank>(Layer(), 304)), "heap-buffer-overflow");
}

TEST(SeededBugs, Int32OverflowOfAnIndex) {
  EXPECT_DEATH(run_unpack_far<Bug::int32_overflow_of_an_index>(), "signed integer overflow");
}

TEST(SeededBugs, SharedOverflow) {
  EXPECT_DEATH(run_pack<Bug::shared_overflow>(), "index 127 out of bounds for type 'float \\[127\\]'");
}

TEST(SeededBugs, DynamicSharedOverflow) {
  EXPECT_DEATH(run_pack<Bug::dynamic_shared_overflow>(),
               "thread \\(31,0,0\\).*byte 124 of shared array 'dynamic' of 124 bytes.*use-after-poison");
}

TEST(SeededBugs, MissingAccumulate) {
  expect_found(run_pack<Bug::missing_accumulate>(), "wrong values");
}

TEST(SeededBugs, StaleSharedTile) {
  expect_found(run_pack<Bug::stale_shared_tile>(), "wrong values");
}

TEST(SeededBugs, EarlyReturn) {
  expect_found(run_sum<Bug::early_return>(), "divergent __syncthreads: 32 of 96");
}

TEST(SeededBugs, DivergentBarrier) {
  expect_found(run_sum<Bug::divergent_barrier>(), "threads of one block wait in different ones");
}

TEST(SeededBugs, UnequalBarriers) {
  expect_found(run_sum<Bug::unequal_barriers>(), "divergent __syncthreads: 32 of 96 threads have exited");
}

TEST(SeededBugs, WrongMask) {
  const std::string found = run_sum<Bug::wrong_mask>();
  expect_found(found, "deadlock:");
  expect_found(found, "48 threads wait in warp collective ffffffff at ");
  expect_found(found, "seeded_bugs.cuh:");
}

TEST(SeededBugs, MaskWithoutCaller) {
  expect_found(run_sum<Bug::mask_without_caller>(),
               "lane 16 is not in its own mask: block (0,0,0) thread (16,0,0)");
}

TEST(SeededBugs, ShuffleFromAbsentLane) {
  expect_found(run_sum<Bug::shuffle_from_absent_lane>(), "shuffle from a lane that takes no part");
}

}  // namespace
}  // namespace seeded
