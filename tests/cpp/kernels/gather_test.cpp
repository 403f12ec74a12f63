// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/gather.h"

#include "tests/cpp/numbers.h"

namespace smet::test {
namespace {

using kernels::GatherArgs;

std::vector<std::pair<DType, DType>> conversions() {
  std::vector<std::pair<DType, DType>> pairs;
  for (const DType dtype : dtypes()) pairs.emplace_back(dtype, dtype);
  pairs.emplace_back(DType::f32, DType::bf16);
  pairs.emplace_back(DType::f32, DType::f16);
  return pairs;
}

std::int64_t tile_size(const Tile& tile, std::int64_t stride) {
  const std::int64_t rows = tile.row_end - tile.row_begin;
  return rows == 0 ? 0 : (rows - 1) * stride + tile.col_end - tile.col_begin;
}

TEST(Gather, ReferenceOnASmallLayer) {
  Topology topology(2, 40);
  topology.activate(0, 1);
  topology.activate(0, 39);
  topology.activate(1, 0);
  topology.derive();
  Buffer<float> dense(80);
  for (std::int64_t i = 0; i < 80; ++i) dense[i] = static_cast<float>(i);
  float out[] = {100, 200, 300};
  GatherArgs args = {topology.pattern(), {0, 2, 0, 40}, dense.data(), DType::f32, 40, out, DType::f32, false};
  ASSERT_EQ(kernels::reference::gather(serial(), args), Status::ok);
  EXPECT_EQ(out[0], 1);
  EXPECT_EQ(out[1], 39);
  EXPECT_EQ(out[2], 40);
  args.accumulate = true;
  ASSERT_EQ(kernels::reference::gather(serial(), args), Status::ok);
  EXPECT_EQ(out[0], 2);
  EXPECT_EQ(out[1], 78);
  EXPECT_EQ(out[2], 80);
}

// Every dtype, tile and stride, overwriting and accumulating: equal to the reference, byte for byte, and the
// elements of other tiles untouched; T8.
TEST(Gather, EqualsReference) {
  for_each_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    for (const auto& [dense_dtype, out_dtype] : conversions()) {
      SCOPED_TRACE(std::string(name(dense_dtype)) + " to " + name(out_dtype));
      const Bytes start = normal_numbers(out_dtype, topology.nnz, 3);
      for (const Tile& tile : tiles(problem)) {
        const std::int64_t stride = tile.col_end - tile.col_begin + 3;
        const Bytes dense = awkward_numbers(dense_dtype, tile_size(tile, stride), 5, true);
        for (const bool accumulate : {false, true}) {
          Bytes want = start;
          GatherArgs args = {topology.pattern(), tile,      dense.data(), dense_dtype, stride,
                             want.data(),        out_dtype, accumulate};
          ASSERT_EQ(kernels::reference::gather(serial(), args), Status::ok);
          for_each_variant([&](const Executor& executor) {
            Bytes got = start;
            args.out = got.data();
            ASSERT_EQ(kernels::cpu::gather(executor, args), Status::ok);
            ASSERT_TRUE(same_bytes(got, want));
          });
        }
      }
    }
  });
}

// Tiles that cover the layer, in any order, fill all of `out`.
TEST(Gather, TilesTogetherGiveTheWhole) {
  const Problem problem = {"ragged", 37, 2500, .25};
  const Topology topology = make_topology(problem);
  const Bytes dense = normal_numbers(DType::f32, problem.rows * problem.cols, 11);
  Bytes whole = untouched(DType::f32, topology.nnz);
  Bytes parts = untouched(DType::f32, topology.nnz);
  GatherArgs args = {topology.pattern(), {0, 37, 0, 2500}, dense.data(), DType::f32,
                     problem.cols,       whole.data(),     DType::f32,   false};
  ASSERT_EQ(kernels::cpu::gather(serial(), args), Status::ok);
  args.out = parts.data();
  for (const std::int64_t col : {2048, 0, 1024}) {
    for (const std::int64_t row : {20, 0}) {
      args.tile = {row, row == 0 ? 20 : 37, col, std::min<std::int64_t>(col + 1024, 2500)};
      args.dense = dense.data() + 4 * (row * problem.cols + col);
      ASSERT_EQ(kernels::cpu::gather(serial(), args), Status::ok);
    }
  }
  EXPECT_TRUE(same_bytes(parts, whole));
}

TEST(Gather, OtherDtypesAreRefused) {
  const Topology topology = make_topology({"small", 2, 8, .5});
  const Bytes dense = numbers(DType::f64, 16);
  Bytes out = untouched(DType::f64, topology.nnz);
  const Bytes before = out;
  for (const DType from : dtypes()) {
    for (const DType to : dtypes()) {
      const bool exists = from == to || (kernels::element_size(to) == 2 && from == DType::f32);
      if (exists) continue;
      const GatherArgs args = {topology.pattern(), {0, 2, 0, 8}, dense.data(), from, 8, out.data(), to, true};
      EXPECT_EQ(kernels::cpu::gather(serial(), args), Status::unsupported_dtype);
      EXPECT_EQ(kernels::reference::gather(serial(), args), Status::unsupported_dtype);
      EXPECT_TRUE(same_bytes(out, before));
    }
  }
}

}  // namespace
}  // namespace smet::test
