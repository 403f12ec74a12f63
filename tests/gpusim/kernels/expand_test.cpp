// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/expand.h"

#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

using kernels::ExpandArgs;

Bytes random_bits(DType dtype, std::int64_t size) {
  Bytes buffer = numbers(dtype, size);
  Random random(7);
  for (unsigned char& byte : buffer) byte = static_cast<unsigned char>(random.bits());
  return buffer;
}

struct Conversion {
  DType values, dense;
};
std::vector<Conversion> conversions() {
  std::vector<Conversion> all;
  for (const DType dtype : dtypes()) all.push_back({dtype, dtype});
  all.push_back({DType::bf16, DType::f32});
  all.push_back({DType::f16, DType::f32});
  return all;
}

void check(const Topology& topology, const Conversion& conversion, const Tile& tile,
           const Alignment& alignment, bool every_schedule) {
  const std::int64_t stride = tile.col_end - tile.col_begin + alignment.gap;
  const Bytes values = random_bits(conversion.values, topology.nnz);
  const Bytes blank = untouched(conversion.dense, tile_size(tile, stride));
  Bytes want = blank;
  ExpandArgs args = {topology.pattern(), tile,  values.data(), conversion.values, want.data(),
                     conversion.dense,   stride};
  ASSERT_EQ(kernels::reference::expand(serial(), args), Status::ok);

  DeviceTopology device_topology(topology);
  OnDevice<unsigned char> device_values(values, alignment.offset * kernels::element_size(conversion.values));
  args.pattern = device_topology.pattern();
  args.values = device_values.data();
  const auto run = [&] {
    OnDevice<unsigned char> dense(blank, alignment.offset * kernels::element_size(conversion.dense));
    args.dense = dense.data();
    ASSERT_EQ(kernels::cuda::expand(stream(), args), Status::ok);
    ASSERT_TRUE(same_bytes(dense.read(), want));
  };
  every_schedule ? for_each_schedule(run) : on_next_schedule(run);
}

// Every dtype and tile; rows aligned for vectors or not: equal to the reference, byte for byte, gaps between
// rows untouched.
TEST(ExpandKernel, EqualsReference) {
  for_each_kernel_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    for (const Conversion& conversion : conversions()) {
      SCOPED_TRACE(std::string(name(conversion.values)) + " to " + name(conversion.dense));
      for (const Tile& tile : tiles(problem)) {
        for (const Alignment& alignment : alignments(problem)) {
          check(topology, conversion, tile, alignment, false);
        }
      }
    }
  });
}

TEST(ExpandKernel, UnderEverySchedule) {
  const Problem problem = {"two segments", 7, 1100, .3};
  const Topology topology = make_topology(problem);
  for (const Conversion& conversion : conversions()) {
    SCOPED_TRACE(std::string(name(conversion.values)) + " to " + name(conversion.dense));
    check(topology, conversion, {0, 7, 0, 1100}, {4, 0}, true);
  }
}

TEST(ExpandKernel, OtherDtypesAreRefused) {
  for (const DType from : dtypes()) {
    for (const DType to : dtypes()) {
      if (from == to || (kernels::element_size(from) == 2 && to == DType::f32)) continue;
      const ExpandArgs args = {{}, {0, 2, 0, 8}, nullptr, from, nullptr, to, 8};
      EXPECT_EQ(kernels::cuda::expand(stream(), args), Status::unsupported_dtype);
    }
  }
}

}  // namespace
}  // namespace smet::test
