// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/csr_columns.h"

#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

void check(const Topology& topology) {
  Buffer<std::int32_t> want(topology.nnz);
  ASSERT_EQ(kernels::reference::csr_columns(serial(), {topology.pattern(), want.data()}), Status::ok);
  DeviceTopology device(topology);
  OnDevice<std::int32_t> columns(topology.nnz);
  ASSERT_EQ(kernels::cuda::csr_columns(stream(), {device.pattern(), columns.data()}), Status::ok);
  EXPECT_TRUE(same_bytes(columns.read(), want));
}

TEST(CsrColumnsKernel, EqualsReference) {
  for_each_kernel_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    on_next_schedule([&] { check(topology); });
  });
}

TEST(CsrColumnsKernel, UnderEverySchedule) {
  const Topology topology = make_topology({"two segments", 7, 1100, .3});
  for_each_schedule([&] { check(topology); });
}

// The twin itself, by hand.
TEST(CsrColumnsKernel, OfThreeWeights) {
  Topology topology = make_topology({"empty", 2, 40, 0});
  topology.activate(0, 3);
  topology.activate(0, 35);
  topology.activate(1, 0);
  Buffer<std::int32_t> columns(3);
  ASSERT_EQ(kernels::reference::csr_columns(serial(), {topology.pattern(), columns.data()}), Status::ok);
  EXPECT_EQ(columns[0], 3);
  EXPECT_EQ(columns[1], 35);
  EXPECT_EQ(columns[2], 0);
}

}  // namespace
}  // namespace smet::test
