// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/gather.h"

#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

using kernels::GatherArgs;

struct Conversion {
  DType dense, out;
};
std::vector<Conversion> conversions() {
  std::vector<Conversion> all;
  for (const DType dtype : dtypes()) all.push_back({dtype, dtype});
  all.push_back({DType::f32, DType::bf16});
  all.push_back({DType::f32, DType::f16});
  return all;
}

void check(const Topology& topology, const Conversion& conversion, const Tile& tile,
           const Alignment& alignment, bool accumulate, bool every_schedule) {
  const std::int64_t stride = tile.col_end - tile.col_begin + alignment.gap;
  const Bytes dense = awkward_numbers(conversion.dense, tile_size(tile, stride), 5, true);
  const Bytes start = normal_numbers(conversion.out, topology.nnz, 3);
  Bytes want = start;
  GatherArgs args = {topology.pattern(), tile,           dense.data(), conversion.dense, stride,
                     want.data(),        conversion.out, accumulate};
  ASSERT_EQ(kernels::reference::gather(serial(), args), Status::ok);

  DeviceTopology device_topology(topology);
  OnDevice<unsigned char> device_dense(dense, alignment.offset * kernels::element_size(conversion.dense));
  args.pattern = device_topology.pattern();
  args.dense = device_dense.data();
  const auto run = [&] {
    OnDevice<unsigned char> out(start, alignment.offset * kernels::element_size(conversion.out));
    args.out = out.data();
    ASSERT_EQ(kernels::cuda::gather(stream(), args), Status::ok);
    ASSERT_TRUE(same_numbers(conversion.out, out.read(), want));
  };
  every_schedule ? for_each_schedule(run) : on_next_schedule(run);
}

// Every dtype and tile, overwriting and accumulating, aligned for vectors or not: equal to the reference, and
// the elements of other tiles untouched.
TEST(GatherKernel, EqualsReference) {
  for_each_kernel_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    for (const Conversion& conversion : conversions()) {
      SCOPED_TRACE(std::string(name(conversion.dense)) + " to " + name(conversion.out));
      for (const Tile& tile : tiles(problem)) {
        for (const bool accumulate : {false, true}) {
          for (const Alignment& alignment : alignments(problem)) {
            check(topology, conversion, tile, alignment, accumulate, false);
          }
        }
      }
    }
  });
}

TEST(GatherKernel, UnderEverySchedule) {
  const Problem problem = {"two segments", 7, 1100, .3};
  const Topology topology = make_topology(problem);
  for (const Conversion& conversion : conversions()) {
    SCOPED_TRACE(std::string(name(conversion.dense)) + " to " + name(conversion.out));
    check(topology, conversion, {0, 7, 0, 1100}, {4, 1}, true, true);
  }
}

TEST(GatherKernel, OtherDtypesAreRefused) {
  for (const DType from : dtypes()) {
    for (const DType to : dtypes()) {
      if (from == to || (kernels::element_size(to) == 2 && from == DType::f32)) continue;
      const GatherArgs args = {{}, {0, 2, 0, 8}, nullptr, from, 8, nullptr, to, true};
      EXPECT_EQ(kernels::cuda::gather(stream(), args), Status::unsupported_dtype);
    }
  }
}

}  // namespace
}  // namespace smet::test
