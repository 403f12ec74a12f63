// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/expand.h"

#include "tests/cpp/numbers.h"

namespace smet::test {
namespace {

using kernels::ExpandArgs;

// Random bits are legal values of any dtype: expand moves bits, or widens exactly.
Bytes random_bits(DType dtype, std::int64_t size) {
  Bytes buffer = numbers(dtype, size);
  Random random(7);
  for (unsigned char& byte : buffer) byte = static_cast<unsigned char>(random.bits());
  return buffer;
}

std::vector<std::pair<DType, DType>> conversions() {
  std::vector<std::pair<DType, DType>> pairs;
  for (const DType dtype : dtypes()) pairs.emplace_back(dtype, dtype);
  pairs.emplace_back(DType::bf16, DType::f32);
  pairs.emplace_back(DType::f16, DType::f32);
  return pairs;
}

// The tile's memory ends with its last element: the gap after the last row does not exist.
std::int64_t tile_size(const Tile& tile, std::int64_t stride) {
  const std::int64_t rows = tile.row_end - tile.row_begin;
  return rows == 0 ? 0 : (rows - 1) * stride + tile.col_end - tile.col_begin;
}

TEST(Expand, ReferenceOnASmallLayer) {
  Topology topology(2, 40);
  topology.activate(0, 1);
  topology.activate(0, 39);
  topology.activate(1, 0);
  topology.derive();
  const float values[] = {1.5F, -2, 3};
  Buffer<float> dense(2 * 41);
  for (float& x : dense) x = 9;
  const ExpandArgs args = {topology.pattern(), {0, 2, 0, 40}, values, DType::f32,
                           dense.data(),       DType::f32,    41};
  ASSERT_EQ(kernels::reference::expand(serial(), args), Status::ok);
  for (std::int64_t i = 0; i < dense.size(); ++i) {
    const float want = i == 1 ? 1.5F : i == 39 ? -2.0F : i == 41 ? 3.0F : i % 41 == 40 ? 9.0F : 0.0F;
    EXPECT_EQ(dense[i], want) << i;
  }
}

// Every dtype, tile and stride: equal to the reference, byte for byte, gaps between rows untouched; T8.
TEST(Expand, EqualsReference) {
  for_each_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    for (const auto& [values_dtype, dense_dtype] : conversions()) {
      SCOPED_TRACE(std::string(name(values_dtype)) + " to " + name(dense_dtype));
      const Bytes values = random_bits(values_dtype, topology.nnz);
      for (const Tile& tile : tiles(problem)) {
        for (const std::int64_t gap : {0, 5}) {
          const std::int64_t stride = tile.col_end - tile.col_begin + gap;
          Bytes want = untouched(dense_dtype, tile_size(tile, stride));
          ExpandArgs args = {topology.pattern(), tile,        values.data(), values_dtype,
                             want.data(),        dense_dtype, stride};
          ASSERT_EQ(kernels::reference::expand(serial(), args), Status::ok);
          for_each_variant([&](const Executor& executor) {
            Bytes got = untouched(dense_dtype, tile_size(tile, stride));
            args.dense = got.data();
            ASSERT_EQ(kernels::cpu::expand(executor, args), Status::ok);
            ASSERT_TRUE(same_bytes(got, want));
          });
        }
      }
    }
  });
}

TEST(Expand, OtherDtypesAreRefused) {
  const Topology topology = make_topology({"small", 2, 8, .5});
  Bytes values = numbers(DType::f64, topology.nnz);
  Bytes dense = untouched(DType::f64, 16);
  const Bytes before = dense;
  for (const DType from : dtypes()) {
    for (const DType to : dtypes()) {
      const bool exists = from == to || (kernels::element_size(from) == 2 && to == DType::f32);
      if (exists) continue;
      const ExpandArgs args = {topology.pattern(), {0, 2, 0, 8}, values.data(), from, dense.data(), to, 8};
      EXPECT_EQ(kernels::cpu::expand(serial(), args), Status::unsupported_dtype);
      EXPECT_EQ(kernels::reference::expand(serial(), args), Status::unsupported_dtype);
      EXPECT_TRUE(same_bytes(dense, before));
    }
  }
}

}  // namespace
}  // namespace smet::test
