// SPDX-License-Identifier: BSD-3-Clause
// The operators' executor: chunks on torch's threads, and what is thrown there.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <thread>

#include "kernels/grad_topk.h"
#include "kernels/sparse_linear.h"
#include "kernels/topology_update.h"
#include "src/ops/kernel_glue.h"
#include "tests/cpp/numbers.h"

// ---- allocations of this program, of which one may be made to fail ----

namespace {

std::atomic<std::int64_t> allocations_left{-1};  // below 0: all succeed

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (allocations_left.load() >= 0 && allocations_left.fetch_sub(1) == 0) throw std::bad_alloc();
  const std::size_t size = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* const block = std::aligned_alloc(alignment, size);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

}  // namespace

void* operator new(std::size_t bytes) {
  return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* block) noexcept {
  std::free(block);
}
void operator delete(void* block, std::size_t /*bytes*/) noexcept {
  std::free(block);
}
void operator delete(void* block, std::align_val_t /*alignment*/) noexcept {
  std::free(block);
}
void operator delete(void* block, std::size_t /*bytes*/, std::align_val_t /*alignment*/) noexcept {
  std::free(block);
}

namespace smet::test {
namespace {

using kernels::for_chunks;
using std::chrono::steady_clock;

class Executors : public testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(4); }
  void TearDown() override { at::set_num_threads(before_); }

 private:
  int before_ = at::get_num_threads();
};

TEST_F(Executors, J7_ParallelForIsReallyParallel) {
  // Each of two chunks waits for the other: one thread alone would never see both of them.
  std::atomic<int> arrived{0};
  std::atomic<int> met{0};
  for_chunks(ops::executor(), 2, [&](std::int64_t) {
    ++arrived;
    const auto deadline = steady_clock::now() + std::chrono::seconds(60);
    while (arrived < 2 && steady_clock::now() < deadline) std::this_thread::yield();
    met += arrived == 2 ? 1 : 0;
  });
  EXPECT_EQ(met, 2);
  EXPECT_EQ(ops::executor().threads, 4);
}

TEST_F(Executors, J6_AnExceptionReachesTheCallerFromAnyChunk) {
  constexpr std::int64_t kChunks = 100;
  for (std::int64_t bad = 0; bad < kChunks; ++bad) {
    try {
      for_chunks(ops::executor(), kChunks, [&](std::int64_t chunk) {
        if (chunk == bad) throw std::runtime_error("chunk " + std::to_string(bad));
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(error.what(), "chunk " + std::to_string(bad));
    }
  }
  std::atomic<std::int64_t> done{0};  // and the threads go on
  for_chunks(ops::executor(), kChunks, [&](std::int64_t) { ++done; });
  EXPECT_EQ(done, kChunks);
}

TEST_F(Executors, J6_OneOfSeveralExceptionsReachesTheCaller) {
  EXPECT_THROW(for_chunks(ops::executor(), 8, [](std::int64_t) { throw std::length_error("all"); }),
               std::length_error);
}

enum class Failing : std::uint8_t { is_told, may_be_absorbed };

// Runs `kernel` with its first, second, third ... allocation failing, until none is left to fail; returns how
// many did. Every time it says that memory ran out, by status or exception, and in the end it succeeds.
template <typename Kernel>
std::int64_t fail_each_allocation(Failing failing, Kernel&& kernel) {
  for (std::int64_t n = 0; n < 10'000; ++n) {
    Status status{};
    allocations_left = n;
    try {
      status = kernel();
    } catch (const std::bad_alloc&) {
      status = Status::out_of_memory;
    }
    const bool failed = allocations_left < 0;
    allocations_left = -1;
    if (!failed) {
      EXPECT_EQ(status, Status::ok);
      return n;
    }
    if (status == Status::ok && failing == Failing::may_be_absorbed) continue;
    EXPECT_EQ(status, Status::out_of_memory) << "allocation " << n;
    if (status != Status::out_of_memory) return n;
  }
  ADD_FAILURE() << "still failing";
  return -1;
}

class Allocations : public Executors {
 protected:
  const Topology topology = make_topology({"layer", 300, 2100, .3});
  const kernels::Executor executor = ops::executor();
  const Pattern pattern = topology.pattern();
  const std::int64_t words = topology.rows * kernels::words_per_row(topology.cols);
};

TEST_F(Allocations, J6_FailingInSelectionIsAStatus) {
  const Bytes score = normal_numbers(DType::f32, topology.nnz, 1);
  Buffer<std::uint32_t> keep(words);
  std::int64_t nan_count = 0;
  const std::int64_t failed = fail_each_allocation(Failing::is_told, [&] {
    return kernels::cpu::select_keep(
        executor, {pattern, score.data(), DType::f32, kernels::ScoreOrder::magnitude, topology.nnz / 3,
                   keep.data(), &nan_count});
  });
  EXPECT_GT(failed, 2);
}

TEST_F(Allocations, J6_FailingInDrawsIsAStatus) {
  Buffer<std::uint32_t> chosen(words);
  const std::int64_t inactive = topology.rows * topology.cols - topology.nnz;
  const std::int64_t failed = fail_each_allocation(Failing::is_told, [&] {
    return kernels::cpu::draw_positions(
        executor, {pattern.mask, topology.rows, topology.cols, inactive, inactive / 10, 7,
                   kernels::DrawStream::grow, 1, chosen.data()});
  });
  EXPECT_GT(failed, 2);
}

TEST_F(Allocations, J6_FailingInGradientGrowthIsAStatus) {
  const Bytes grad = normal_numbers(DType::f32, topology.rows * topology.cols, 2);
  const std::int64_t failed = fail_each_allocation(Failing::is_told, [&] {
    kernels::GradTopk state{.k = 5000, .candidates = {}};
    const Status status = kernels::cpu::grad_topk_tile(
        executor,
        {pattern.mask, topology.rows, topology.cols, Tile{0, topology.rows, 0, topology.cols}, grad.data(),
         DType::f32, topology.cols},
        state);
    if (status != Status::ok) return status;
    EXPECT_EQ(kernels::cpu::grad_topk_finish(executor, state).size(), 5000U);
    return Status::ok;
  });
  EXPECT_GT(failed, 2);
}

// Scratch that cannot be kept for the next call is freed instead: then the results are right.
TEST_F(Allocations, J6_FailingInTheLayerIsAStatusOrHarmless) {
  constexpr std::int64_t kTokens = 40;
  const Bytes x = normal_numbers(DType::f32, kTokens * topology.cols, 3);
  const Bytes values = normal_numbers(DType::f32, topology.nnz, 4);
  Bytes y(kTokens * topology.rows * 4);
  Bytes dvalues(topology.nnz * 4);
  const auto run = [&] {
    std::fill(dvalues.begin(), dvalues.end(), std::uint8_t{0});
    const Status status =
        kernels::cpu::sparse_linear(executor, {pattern, kTokens, DType::f32, x.data(), topology.cols,
                                               values.data(), nullptr, y.data(), topology.rows});
    if (status != Status::ok) return status;
    return kernels::cpu::sparse_linear_backward(
        executor, {pattern, kTokens, DType::f32, y.data(), topology.rows, x.data(), topology.cols, nullptr,
                   nullptr, 0, dvalues.data()});
  };
  ASSERT_EQ(run(), Status::ok);
  const Bytes expected = dvalues;
  int wrong = 0;
  const std::int64_t failed = fail_each_allocation(Failing::may_be_absorbed, [&] {
    const Status status = run();
    wrong += status == Status::ok &&
             std::memcmp(dvalues.data(), expected.data(), static_cast<std::size_t>(expected.size())) != 0;
    return status;
  });
  EXPECT_GT(failed, 2);
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace smet::test
