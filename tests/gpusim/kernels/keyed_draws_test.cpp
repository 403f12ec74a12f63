// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/keyed_draws.h"

#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

using kernels::DrawPositionsArgs;
using kernels::DrawStream;

DrawPositionsArgs arguments(const Topology& topology, std::int64_t k, std::uint32_t* chosen) {
  const std::int64_t inactive = topology.rows * topology.cols - topology.nnz;
  return {topology.mask.data(),
          topology.rows,
          topology.cols,
          inactive,
          k,
          0xFEEDFACECAFEULL,
          DrawStream::grow,
          3,
          chosen};
}

struct Result {
  Buffer<std::uint32_t> chosen;
  std::int32_t fault;
};

// Runs the launcher on a copy of `host`, into memory full of ones.
Result draw(const Topology& topology, DrawPositionsArgs host) {
  OnDevice<std::uint32_t> mask(topology.mask);
  Buffer<std::uint32_t> ones(topology.mask.size());
  std::fill(ones.begin(), ones.end(), ~0U);
  OnDevice<std::uint32_t> chosen(ones);
  OnDevice<std::int32_t> fault(1);
  OnDevice<unsigned char> scratch = scratch_of(kernels::cuda::draw_positions_scratch());
  host.mask = mask.data();
  host.chosen = chosen.data();
  EXPECT_EQ(kernels::cuda::draw_positions(stream(), host, fault.data(), scratch.data()), Status::ok);
  return {chosen.read(), fault.read()[0]};
}

void check(const Topology& topology, std::int64_t k, bool every_schedule) {
  SCOPED_TRACE("k = " + std::to_string(k));
  Buffer<std::uint32_t> want(topology.mask.size());
  const DrawPositionsArgs args = arguments(topology, k, want.data());
  ASSERT_EQ(kernels::reference::draw_positions(args), Status::ok);
  const auto run = [&] {
    const Result got = draw(topology, args);
    EXPECT_EQ(got.fault, 0);
    EXPECT_TRUE(same_bytes(got.chosen, want));
  };
  every_schedule ? for_each_schedule(run) : on_next_schedule(run);
}

// T9. The set of the reference, which draws one by one.
TEST(DrawPositionsKernel, EqualsReference) {
  for_each_kernel_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    const std::int64_t inactive = problem.rows * problem.cols - topology.nnz;
    for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, inactive / 10, inactive / 2,
                                 inactive / 2 + 1, inactive - 1, inactive}) {
      if (k < 0 || k > inactive) continue;
      check(topology, k, false);
    }
  });
}

// So many that several launches draw, and few enough hits that one block goes on for long.
TEST(DrawPositionsKernel, ManyRoundsUnderEverySchedule) {
  check(make_topology({"sparse", 120, 500, .25}), 20000, true);
  check(make_topology({"nearly dense", 20, 1500, .9}), 1000, true);
}

// A count that is not the mask's would never end: reported, nothing chosen.
TEST(DrawPositionsKernel, WrongCounts) {
  const Topology topology = make_topology({"small", 3, 50, .5});
  const std::int64_t inactive = 150 - topology.nnz;
  for (const std::int64_t k : {std::int64_t{1}, inactive}) {
    DrawPositionsArgs args = arguments(topology, k, nullptr);
    args.inactive = inactive + 1;
    for_each_schedule([&] {
      const Result got = draw(topology, args);
      EXPECT_EQ(got.fault, 1);
      EXPECT_TRUE(same_bytes(got.chosen, Buffer<std::uint32_t>(topology.mask.size())));
    });
  }
  for (const auto& [k, count] : {std::pair{inactive + 1, inactive},
                                 {std::int64_t{-1}, inactive},
                                 {std::int64_t{1}, std::int64_t{151}},
                                 {std::int64_t{0}, std::int64_t{-1}}}) {
    DrawPositionsArgs args = arguments(topology, k, nullptr);
    args.inactive = count;
    EXPECT_EQ(kernels::cuda::draw_positions(stream(), args, nullptr, nullptr), Status::invalid_argument);
  }
}

}  // namespace
}  // namespace smet::test
