// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/grad_topk.h"

#include "tests/gpusim/kernels/device.h"

namespace smet::test {
namespace {

using kernels::GradTopk;
using kernels::GradTopkTileArgs;
using kernels::cuda::GradTopkLayer;

// The tiles of a layer, `rows` x `cols` each.
std::vector<Tile> cut(const Topology& topology, std::int64_t rows, std::int64_t cols) {
  std::vector<Tile> all;
  for (std::int64_t row = 0; row < topology.rows; row += rows) {
    for (std::int64_t col = 0; col < topology.cols; col += cols) {
      all.push_back({row, std::min(row + rows, topology.rows), col, std::min(col + cols, topology.cols)});
    }
  }
  return all;
}

std::vector<std::int64_t> reference(const Topology& topology, const Bytes& grad, DType dtype,
                                    std::int64_t k) {
  GradTopk state;
  state.k = k;
  const Tile whole = {0, topology.rows, 0, topology.cols};
  const GradTopkTileArgs args = {topology.mask.data(), topology.rows, topology.cols, whole,
                                 grad.data(),          dtype,         topology.cols};
  EXPECT_EQ(kernels::reference::grad_topk_tile(serial(), args, state), Status::ok);
  return kernels::reference::grad_topk_finish(state);
}

// Streams the tiles, the last one first.
std::vector<std::int64_t> streamed(const Topology& topology, const Bytes& grad, DType dtype, std::int64_t k,
                                   std::int64_t tile_rows, std::int64_t tile_cols) {
  const GradTopkLayer layer = {topology.rows, topology.cols, k, dtype};
  OnDevice<std::uint32_t> mask(topology.mask);
  OnDevice<unsigned char> scratch = scratch_of(kernels::cuda::grad_topk_scratch(layer));
  OnDevice<std::int64_t> positions(k);
  OnDevice<std::int64_t> found(1);
  EXPECT_EQ(kernels::cuda::grad_topk_begin(stream(), layer, scratch.data()), Status::ok);
  std::vector<Tile> order = cut(topology, tile_rows, tile_cols);
  std::reverse(order.begin(), order.end());
  const std::int64_t size = kernels::element_size(dtype);
  for (const Tile& tile : order) {
    const std::int64_t width = tile.col_end - tile.col_begin;
    const std::int64_t stride = width + 2;
    Bytes copy(tile_size(tile, stride) * size);
    for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
      std::copy_n(grad.data() + (row * topology.cols + tile.col_begin) * size, width * size,
                  copy.data() + (row - tile.row_begin) * stride * size);
    }
    OnDevice<unsigned char> device_tile(copy);
    const GradTopkTileArgs args = {mask.data(),        topology.rows, topology.cols, tile,
                                   device_tile.data(), dtype,         stride};
    EXPECT_EQ(kernels::cuda::grad_topk_tile(stream(), layer, args, scratch.data()), Status::ok);
  }
  EXPECT_EQ(kernels::cuda::grad_topk_finish(stream(), layer, positions.data(), found.data(), scratch.data()),
            Status::ok);
  const Buffer<std::int64_t> listed = positions.read();
  return {listed.begin(), listed.begin() + found.read()[0]};
}

// T9. The reference's k largest, whatever the tiling; ties, infinities and NaN; more wanted than there are.
TEST(GradTopkKernel, EqualsReference) {
  for_each_kernel_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    const std::int64_t positions = problem.rows * problem.cols;
    const std::int64_t inactive = positions - topology.nnz;
    for (const DType dtype : {DType::f32, DType::f64}) {
      const Bytes awkward = awkward_numbers(dtype, positions, 37, true);
      const Bytes normal = normal_numbers(dtype, positions, 41, 1e-3);
      for (const std::int64_t k : {std::int64_t{1}, topology.nnz / 5, inactive + 3}) {
        SCOPED_TRACE(std::string(name(dtype)) + " k " + std::to_string(k));
        on_next_schedule([&] {
          const std::int64_t tile_cols = problem.cols < 10000 ? 2048 : 51200;
          ASSERT_EQ(streamed(topology, awkward, dtype, k, problem.rows / 2 + 1, tile_cols),
                    reference(topology, awkward, dtype, k));
        });
        if (!few_segments(problem)) continue;
        on_next_schedule([&] {
          ASSERT_EQ(streamed(topology, normal, dtype, k, problem.rows + 1, 1024),
                    reference(topology, normal, dtype, k));
        });
      }
    }
  });
}

// Falling gradients, last tile first: every position is a candidate when it passes, so that batches fill up
// and are thinned. All equal ones: positions alone decide.
TEST(GradTopkKernel, FullBatchesUnderEverySchedule) {
  const Topology topology = make_topology({"empty", 40, 2100, 0});
  Bytes falling = numbers(DType::f32, 84000);
  for (std::int64_t i = 0; i < 84000; ++i) store(falling, DType::f32, i, static_cast<double>(84000 - i));
  const Bytes equal = numbers(DType::f32, 84000);
  for_each_schedule([&] {
    for (const std::int64_t k : {std::int64_t{1}, std::int64_t{5000}}) {
      std::vector<std::int64_t> want(static_cast<std::size_t>(k));
      for (std::int64_t i = 0; i < k; ++i) want[static_cast<std::size_t>(i)] = i;
      EXPECT_EQ(streamed(topology, falling, DType::f32, k, 40, 4096), want);
      EXPECT_EQ(streamed(topology, equal, DType::f32, k, 11, 4096), want);
    }
  });
}

TEST(GradTopkKernel, NothingWantedAndOtherDtypes) {
  const Topology topology = make_topology({"small", 3, 50, .5});
  EXPECT_TRUE(streamed(topology, numbers(DType::f32, 150), DType::f32, 0, 3, 1024).empty());
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const GradTopkLayer layer = {3, 50, 5, dtype};
    EXPECT_EQ(kernels::cuda::grad_topk_begin(stream(), layer, nullptr), Status::unsupported_dtype);
  }
  const GradTopkTileArgs args = {nullptr, 3, 50, {0, 3, 0, 50}, nullptr, DType::f64, 50};
  EXPECT_EQ(kernels::cuda::grad_topk_tile(stream(), {3, 50, 5, DType::f32}, args, nullptr),
            Status::unsupported_dtype);
}

}  // namespace
}  // namespace smet::test
