// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/mask_rank.h"

#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

using kernels::MaskHashArgs;
using kernels::MaskRankArgs;

void check_rank(const Topology& topology) {
  OnDevice<std::uint32_t> mask(topology.mask);
  OnDevice<unsigned char> scratch =
      scratch_of(kernels::cuda::mask_rank_scratch(topology.rows, topology.cols));
  OnDevice<std::int32_t> rank(topology.rank.size());
  OnDevice<std::int64_t> nnz(1);
  const MaskRankArgs args = {mask.data(), rank.data(), topology.rows, topology.cols, nnz.data()};
  ASSERT_EQ(kernels::cuda::mask_rank(stream(), args, scratch.data()), Status::ok);
  EXPECT_EQ(nnz.read()[0], topology.nnz);
  EXPECT_TRUE(same_bytes(rank.read(), topology.rank));
}

TEST(MaskRankKernel, EqualsReference) {
  for_each_kernel_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    on_next_schedule([&] { check_rank(topology); });
  });
  const Topology blocks = make_topology({"three blocks of segments", 300, 1100, .01});
  for_each_schedule([&] { check_rank(blocks); });
}

TEST(MaskHashKernel, EqualsReference) {
  for_each_kernel_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    const MaskHashArgs host = {topology.mask.data(), problem.rows, problem.cols};
    const std::uint64_t want = kernels::reference::mask_hash(serial(), host);
    OnDevice<std::uint32_t> mask(topology.mask);
    OnDevice<unsigned char> scratch = scratch_of(kernels::cuda::mask_hash_scratch());
    OnDevice<std::uint64_t> hash(1);
    for_each_schedule([&] {
      const MaskHashArgs args = {mask.data(), problem.rows, problem.cols};
      ASSERT_EQ(kernels::cuda::mask_hash(stream(), args, hash.data(), scratch.data()), Status::ok);
      EXPECT_EQ(hash.read()[0], want);
    });
  });
}

TEST(HasPadBitsKernel, SeesEveryPadBitAndNoOther) {
  OnDevice<std::int32_t> found(1);
  const auto has_pad_bits = [&](const Topology& topology) {
    OnDevice<std::uint32_t> mask(topology.mask);
    const MaskHashArgs args = {mask.data(), topology.rows, topology.cols};
    EXPECT_EQ(kernels::cuda::has_pad_bits(stream(), args, found.data()), Status::ok);
    return found.read()[0];
  };
  for (const std::int64_t cols : {1, 31, 32, 33, 64, 70}) {
    const Topology topology = make_topology({"full", 3, cols, 1});
    EXPECT_EQ(has_pad_bits(topology), 0);
    for (std::int64_t row = 0; row < 3; ++row) {
      for (std::int64_t col = cols; col < 32 * kernels::words_per_row(cols); ++col) {
        Topology bad = topology;
        bad.activate(row, col);
        EXPECT_EQ(has_pad_bits(bad), 1) << row << ", " << col;
      }
    }
  }
}

}  // namespace
}  // namespace smet::test
