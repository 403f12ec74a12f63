// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/grad_topk.h"

#include "tests/cpp/numbers.h"

namespace smet::test {
namespace {

using kernels::GradTopk;
using kernels::GradTopkTileArgs;

// All inactive positions in the order in which they grow: (|gradient| descending, NaN last, position).
std::vector<std::int64_t> growth_order(const Topology& topology, const Bytes& grad, DType dtype) {
  std::vector<std::pair<double, std::int64_t>> sorted;
  for (std::int64_t row = 0; row < topology.rows; ++row) {
    for (std::int64_t col = 0; col < topology.cols; ++col) {
      const std::int64_t position = row * topology.cols + col;
      const double x = std::fabs(load(grad, dtype, position));
      if (!topology.active(row, col)) sorted.emplace_back(std::isnan(x) ? 1 : -x, position);
    }
  }
  std::sort(sorted.begin(), sorted.end());
  std::vector<std::int64_t> positions;
  for (const auto& [key, position] : sorted) positions.push_back(position);
  return positions;
}

// The first k of them, ascending.
std::vector<std::int64_t> first_k(std::vector<std::int64_t> positions, std::int64_t k) {
  positions.resize(std::min(positions.size(), static_cast<std::size_t>(k)));
  std::sort(positions.begin(), positions.end());
  return positions;
}

using TileKernel = Status (*)(const Executor&, const GradTopkTileArgs&, GradTopk&);
using FinishKernel = std::vector<std::int64_t> (*)(const Executor&, GradTopk&);

std::vector<std::int64_t> finish_reference(const Executor& /*executor*/, GradTopk& state) {
  return kernels::reference::grad_topk_finish(state);
}

// Streams the layer in tiles of `rows` x `cols`, bottom-up when `backwards`; tiles are copied to memory of
// their own, rows `gap` apart.
std::vector<std::int64_t> stream(TileKernel kernel, FinishKernel finish, const Executor& executor,
                                 const Topology& topology, const Bytes& grad, DType dtype, std::int64_t k,
                                 std::int64_t rows, std::int64_t cols, bool backwards) {
  std::vector<Tile> order;
  for (std::int64_t row = 0; row < topology.rows; row += rows) {
    for (std::int64_t col = 0; col < topology.cols; col += cols) {
      order.push_back({row, std::min(row + rows, topology.rows), col, std::min(col + cols, topology.cols)});
    }
  }
  if (backwards) std::reverse(order.begin(), order.end());
  GradTopk state;
  state.k = k;
  const std::int64_t size = kernels::element_size(dtype);
  for (const Tile& tile : order) {
    const std::int64_t width = tile.col_end - tile.col_begin;
    const std::int64_t stride = width + 2;
    Bytes copy(((tile.row_end - tile.row_begin - 1) * stride + width) * size);
    for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
      std::copy_n(grad.data() + (row * topology.cols + tile.col_begin) * size, width * size,
                  copy.data() + (row - tile.row_begin) * stride * size);
    }
    EXPECT_EQ(
        kernel(executor,
               {topology.mask.data(), topology.rows, topology.cols, tile, copy.data(), dtype, stride}, state),
        Status::ok);
    EXPECT_LE(state.candidates.size(), static_cast<std::size_t>(2 * k + 65536));
  }
  return finish(executor, state);
}

// The k largest, whatever the tiling, its order, the threads and the instruction set; ties, infinities, NaN.
TEST(GradTopk, EqualsSort) {
  for_each_problem([](const Problem& problem) {
    const Topology topology = make_topology(problem);
    const std::int64_t positions = problem.rows * problem.cols;
    for (const DType dtype : {DType::f32, DType::f64}) {
      for (const bool awkward : {false, true}) {
        const Bytes grad = awkward ? awkward_numbers(dtype, positions, 37, true)
                                   : normal_numbers(dtype, positions, 41, 1e-3);
        const std::int64_t inactive = positions - topology.nnz;
        const std::vector<std::int64_t> order = growth_order(topology, grad, dtype);
        for (const std::int64_t k : {std::int64_t{1}, topology.nnz / 5, inactive + 3}) {
          SCOPED_TRACE(std::string(name(dtype)) + " k " + std::to_string(k) + (awkward ? " awkward" : ""));
          const std::vector<std::int64_t> want = first_k(order, k);
          EXPECT_EQ(stream(kernels::reference::grad_topk_tile, finish_reference, serial(), topology, grad,
                           dtype, k, 7, 1024, false),
                    want);
          for_each_variant([&](const Executor& executor) {
            ASSERT_EQ(stream(kernels::cpu::grad_topk_tile, kernels::cpu::grad_topk_finish, executor, topology,
                             grad, dtype, k, problem.rows / 4 + 1, 2048, true),
                      want);
            ASSERT_EQ(stream(kernels::cpu::grad_topk_tile, kernels::cpu::grad_topk_finish, executor, topology,
                             grad, dtype, k, problem.rows + 1, 1024 * 1024, false),
                      want);
          });
        }
      }
    }
  });
}

// Enough candidates for all threads: distinct keys, few keys with many ties, one key, and keys of NaN alone.
TEST(GradTopk, ManyCandidatesEqualSort) {
  const Topology topology = make_topology({"large", 150, 1200, .2});
  const std::int64_t positions = 150 * 1200;
  for (const int distinct : {0, 5, 1}) {
    Bytes grad = normal_numbers(DType::f32, positions, 43, 1e-3);
    for (std::int64_t i = 0; distinct > 0 && i < positions; ++i) {
      store(grad, DType::f32, i, static_cast<double>(i % distinct));
    }
    if (distinct == 1) {
      for (std::int64_t i = 0; i < positions; ++i) store(grad, DType::f32, i, std::nan(""));
    }
    const std::vector<std::int64_t> order = growth_order(topology, grad, DType::f32);
    for (const std::int64_t k : {10, 20000, 70000}) {
      SCOPED_TRACE("distinct " + std::to_string(distinct) + " k " + std::to_string(k));
      for_each_variant([&](const Executor& executor) {
        ASSERT_EQ(stream(kernels::cpu::grad_topk_tile, kernels::cpu::grad_topk_finish, executor, topology,
                         grad, DType::f32, k, 40, 2048, false),
                  first_k(order, k));
      });
    }
  }
}

// Rising gradients make every position a candidate when it passes: the most that is ever held and dropped.
TEST(GradTopk, WorstOrderStaysWithinTheLimit) {
  const Topology topology = make_topology({"empty", 100, 4000, 0});
  Bytes grad = numbers(DType::f32, 400000);
  for (std::int64_t i = 0; i < 400000; ++i) store(grad, DType::f32, i, static_cast<double>(i));
  for (const std::int64_t k : {1, 1000, 150000}) {
    const std::vector<std::int64_t> got =
        stream(kernels::cpu::grad_topk_tile, kernels::cpu::grad_topk_finish, executor_of<2>(), topology, grad,
               DType::f32, k, 10, 4096, false);
    ASSERT_EQ(got.size(), static_cast<std::size_t>(k));
    for (std::int64_t i = 0; i < k; ++i) ASSERT_EQ(got[static_cast<std::size_t>(i)], 400000 - k + i);
  }
}

TEST(GradTopk, NothingWantedAndOtherDtypes) {
  const Topology topology = make_topology({"small", 3, 50, .5});
  const Bytes grad = numbers(DType::f64, 150);
  GradTopk state;
  const GradTopkTileArgs args = {topology.mask.data(), 3, 50, {0, 3, 0, 50}, grad.data(), DType::f32, 50};
  ASSERT_EQ(kernels::cpu::grad_topk_tile(serial(), args, state), Status::ok);
  EXPECT_TRUE(kernels::cpu::grad_topk_finish(serial(), state).empty());
  for (const DType dtype : {DType::bf16, DType::f16}) {
    GradTopkTileArgs other = args;
    other.grad_dtype = dtype;
    state.k = 5;
    EXPECT_EQ(kernels::cpu::grad_topk_tile(serial(), other, state), Status::unsupported_dtype);
    EXPECT_EQ(kernels::reference::grad_topk_tile(serial(), other, state), Status::unsupported_dtype);
    EXPECT_TRUE(state.candidates.empty());
  }
}

}  // namespace
}  // namespace smet::test
