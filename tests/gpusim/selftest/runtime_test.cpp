// SPDX-License-Identifier: BSD-3-Clause
// What the runtime promises about launches, positions, shared memory and barriers.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <set>
#include <vector>

#include "kernels/cuda/shared.cuh"

namespace {

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const gpusim::Error& error) {
    return error.what();
  }
  return "";
}

void expect_error(const std::function<void()>& body, const std::string& want) {
  const std::string got = error_of(body);
  EXPECT_NE(got.find(want), std::string::npos) << "expected '" << want << "', got '" << got << "'";
}

// ---------------------------------------------------------------- positions

__global__ void write_positions(int* seen) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  ++seen[block * threads + thread];
}

TEST(Runtime, EveryThreadOfEveryBlockRunsOnce) {
  gpusim::for_each_schedule([] {
    std::vector<int> seen(2 * 3 * 4 * 5 * 3 * 2);
    gpusim::launch({.grid = {2, 3, 4}, .block = {5, 3, 2}}, write_positions, seen.data());
    for (const int times : seen) EXPECT_EQ(times, 1);
  });
}

__global__ void record_order(int* order, int* next) {
  order[atomicAdd(next, 1)] = static_cast<int>(threadIdx.x);
}

std::vector<int> order_of(gpusim::Schedule schedule) {
  const gpusim::With with({.schedule = schedule});
  std::vector<int> order(100);
  int next = 0;
  gpusim::launch({.grid = {1}, .block = {100}}, record_order, order.data(), &next);
  return order;
}

TEST(Runtime, SchedulesDiffer) {
  using gpusim::Order;
  std::vector<int> want(100);
  std::iota(want.begin(), want.end(), 0);
  EXPECT_EQ(order_of({Order::forward, false, 1}), want);
  EXPECT_EQ(order_of({Order::forward, true, 1}), want);
  std::reverse(want.begin(), want.end());
  EXPECT_EQ(order_of({Order::reverse, false, 1}), want);
  std::set<std::vector<int>> random;
  for (const bool drain : {false, true}) {
    for (const std::uint64_t seed : {1, 2}) random.insert(order_of({Order::random, drain, seed}));
  }
  EXPECT_EQ(random.size(), 4U);
  EXPECT_EQ(order_of({Order::random, true, 2}), order_of({Order::random, true, 2}));
}

// ---------------------------------------------------------------- barriers and shared memory

// sums[block] = sum of x over the block's elements: shuffles inside a warp, shared memory between warps.
__global__ void block_sums(const int* x, int n, int* sums) {
  SMET_SHARED(int, partial, [32]);
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  int sum = i < n ? x[i] : 0;
  for (unsigned delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(0xFFFFFFFFU, sum, delta);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  int total = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) total += partial[w];
  sums[blockIdx.x] = total;
}

TEST(Runtime, BlockSums) {
  constexpr std::size_t kBlocks = 5;
  std::vector<int> x(kBlocks * 96 - 7);
  std::iota(x.begin(), x.end(), -100);
  gpusim::for_each_schedule([&] {
    std::vector<int> sums(kBlocks);
    gpusim::launch({.grid = {kBlocks}, .block = {96}}, block_sums, x.data(), static_cast<int>(x.size()),
                   sums.data());
    for (std::size_t b = 0; b < kBlocks; ++b) {
      const auto begin = x.begin() + static_cast<std::ptrdiff_t>(b * 96);
      EXPECT_EQ(sums[b], std::accumulate(begin, std::min(begin + 96, x.end()), 0)) << b;
    }
  });
}

// A hundred rotations through shared memory: many barriers, each of which a fast warp could overtake.
__global__ void rotate(int* x) {
  SMET_DYNAMIC_SHARED(int, stage);
  int mine = x[threadIdx.x];
  for (int round = 0; round < 100; ++round) {
    stage[threadIdx.x] = mine;
    __syncthreads();
    mine = stage[(threadIdx.x + 1) % blockDim.x];
    __syncthreads();
  }
  x[threadIdx.x] = mine;
}

TEST(Runtime, ManyBarriers) {
  gpusim::for_each_schedule([] {
    std::vector<int> x(160);
    std::iota(x.begin(), x.end(), 0);
    gpusim::launch({.grid = {1}, .block = {160}, .shared_bytes = 160 * sizeof(int)}, rotate, x.data());
    for (int i = 0; i < 160; ++i) EXPECT_EQ(x[static_cast<std::size_t>(i)], (i + 100) % 160);
  });
}

__global__ void barrier_votes(const int* predicate, int* count, int* all, int* any) {
  const int p = predicate[threadIdx.x];
  count[threadIdx.x] = __syncthreads_count(p);
  all[threadIdx.x] = __syncthreads_and(p);
  any[threadIdx.x] = __syncthreads_or(p);
}

TEST(Runtime, BarrierVotes) {
  for (const int yes : {0, 1, 69, 70}) {
    gpusim::for_each_schedule([&] {
      std::vector<int> predicate(70), count(70), all(70), any(70);
      std::fill_n(predicate.begin(), yes, 5);
      gpusim::launch({.grid = {1}, .block = {70}}, barrier_votes, predicate.data(), count.data(), all.data(),
                     any.data());
      for (std::size_t i = 0; i < 70; ++i) {
        EXPECT_EQ(count[i], yes);
        EXPECT_EQ(all[i], yes == 70 ? 1 : 0);
        EXPECT_EQ(any[i], yes > 0 ? 1 : 0);
      }
    });
  }
}

__global__ void read_unwritten(float* seen) {
  SMET_SHARED(float, fixed, [33]);
  SMET_DYNAMIC_SHARED(float, dynamic);
  seen[blockIdx.x * 2] = fixed[32];
  seen[blockIdx.x * 2 + 1] = dynamic[32];
  fixed[32] = dynamic[32] = 1;
}

TEST(Runtime, SharedMemoryIsNaNBeforeEveryBlock) {
  std::vector<float> seen(6);
  gpusim::launch({.grid = {3}, .block = {1}, .shared_bytes = 33 * sizeof(float)}, read_unwritten,
                 seen.data());
  for (const float x : seen) EXPECT_TRUE(std::isnan(x));
}

template <typename T>
__device__ T* scratch() {
  SMET_SHARED(T, array, [4]);
  return array;
}
__global__ void shared_identity(int* same) {
  const bool once = scratch<int>() == scratch<int>();
  const bool by_type = static_cast<void*>(scratch<int>()) != static_cast<void*>(scratch<float>());
  const bool aligned = reinterpret_cast<std::uintptr_t>(scratch<float>()) % 16 == 0;
  *same = once && by_type && aligned ? 1 : 0;
}

TEST(Runtime, OneSharedArrayPerDeclaration) {
  int same = 0;
  gpusim::launch({.grid = {1}, .block = {1}}, shared_identity, &same);
  EXPECT_EQ(same, 1);
}

// ---------------------------------------------------------------- limits

__global__ void nothing() {}
__global__ void much_shared() {
  SMET_SHARED(char, a, [40 << 10]);
  SMET_SHARED(char, b, [9 << 10]);
  a[0] = b[0] = 0;
}

TEST(Runtime, LaunchLimits) {
  expect_error([] { gpusim::launch({.grid = {1}, .block = {1025}}, nothing); },
               "blocks of 1025 x 1 x 1 threads");
  expect_error([] { gpusim::launch({.grid = {1}, .block = {0}}, nothing); }, "blocks of 0 x 1 x 1 threads");
  expect_error([] { gpusim::launch({.grid = {1}, .block = {1, 1, 65}}, nothing); }, "1 x 1 x 65 threads");
  expect_error([] { gpusim::launch({.grid = {0}, .block = {1}}, nothing); }, "a grid of 0 x 1 x 1");
  expect_error(
      [] {
        gpusim::launch({.grid = {1, 65536}, .block = {1}}, nothing);
      },
      "a grid of 1 x 65536 x 1");
  expect_error([] { gpusim::launch({.grid = {1}, .block = {1}}, much_shared); },
               "50176 bytes of static and 50176 bytes of all shared memory");
  EXPECT_EQ(error_of([] { gpusim::launch({.grid = {1}, .block = {1024}}, nothing); }), "");
}

TEST(Runtime, DynamicSharedMemoryMustBeAskedFor) {
  const gpusim::Shape shape = {.grid = {1}, .block = {1}, .shared_bytes = 64U << 10};
  expect_error([&] { gpusim::launch(shape, nothing); }, "launch with 65536 bytes of dynamic shared memory");
  EXPECT_EQ(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10),
            cudaSuccess);
  EXPECT_EQ(error_of([&] { gpusim::launch(shape, nothing); }), "");
  EXPECT_NE(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10),
            cudaSuccess);
}

TEST(Runtime, OnlyItsStream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = config.blockDim = dim3(1);
  expect_error([&] { cudaLaunchKernelEx(&config, nothing); }, "launch on a stream other than");
  config.stream = gpusim::stream();
  EXPECT_EQ(cudaLaunchKernelEx(&config, nothing), cudaSuccess);
  int x = 3;
  expect_error([&] { cudaMemsetAsync(&x, 0, sizeof x, nullptr); }, "cudaMemsetAsync on a stream other than");
  EXPECT_EQ(cudaMemsetAsync(&x, 0, sizeof x, gpusim::stream()), cudaSuccess);
  EXPECT_EQ(x, 0);
}

__global__ void add(int* to, const int* from, int n) {
  if (threadIdx.x == 0) *to += *from * n;
}

// A replay has the arguments of the recording, and sees what memory holds by then.
TEST(Runtime, ARecordingIsReplayedWithItsArguments) {
  int total = 0, from = 1, copy = 0, n = 10;
  gpusim::Recording recording;
  gpusim::launch({.grid = {1}, .block = {32}}, add, &total, &from, n);
  EXPECT_EQ(cudaMemcpyAsync(&copy, &total, sizeof copy, cudaMemcpyDefault, gpusim::stream()), cudaSuccess);
  EXPECT_EQ(cudaMemsetAsync(&total, 0, sizeof total, gpusim::stream()), cudaSuccess);
  expect_error([] { const gpusim::Recording second; }, "two recordings at a time");
  expect_error([&] { recording.replay(); }, "a replay while a recording is made");
  recording.stop();
  gpusim::launch({.grid = {1}, .block = {32}}, nothing);  // not kept
  EXPECT_EQ(recording.size(), 3U);
  EXPECT_EQ(copy, 10);
  n = 99;
  from = 3;
  recording.replay();
  EXPECT_EQ(copy, 30);
  EXPECT_EQ(total, 0);
}

// After an error the runtime is as good as new.
__global__ void leaves_others_waiting() {
  if (threadIdx.x != 3) __syncthreads();
}

TEST(Runtime, ErrorsLeaveNothingBehind) {
  for (int round = 0; round < 3; ++round) {
    expect_error([] { gpusim::launch({.grid = {2}, .block = {64}}, leaves_others_waiting); },
                 "1 of 64 threads have exited without it; waiting: block (0,0,0) thread (0,0,0) at ");
    std::vector<int> seen(64);
    gpusim::launch({.grid = {1}, .block = {64}}, write_positions, seen.data());
    EXPECT_EQ(seen, std::vector<int>(64, 1));
  }
}

}  // namespace
