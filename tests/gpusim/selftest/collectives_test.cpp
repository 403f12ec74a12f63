// SPDX-License-Identifier: BSD-3-Clause
// Every collective against the sentence of CUDA's programming guide that defines it, and the atomics.
#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <limits>
#include <vector>

#include "kernels/cuda/shared.cuh"

namespace {

constexpr unsigned kFull = 0xFFFFFFFFU;
using Lanes = std::vector<int>;

// ---------------------------------------------------------------- shuffles

__global__ void shuffles(int argument, int width, int* indexed, int* up, int* down, int* exchanged) {
  const int lane = static_cast<int>(threadIdx.x);
  const int value = 100 + lane;
  indexed[lane] = __shfl_sync(kFull, value, argument, width);
  up[lane] = __shfl_up_sync(kFull, value, static_cast<unsigned>(argument), width);
  down[lane] = __shfl_down_sync(kFull, value, static_cast<unsigned>(argument), width);
  exchanged[lane] = __shfl_xor_sync(kFull, value, argument, width);
}

TEST(Collectives, Shuffles) {
  for (const int width : {32, 16, 4, 1}) {
    for (const int argument : {0, 1, 3, 15, 31}) {
      gpusim::for_each_schedule([&] {
        Lanes indexed(32), up(32), down(32), exchanged(32);
        gpusim::launch({.grid = {1}, .block = {32}}, shuffles, argument, width, indexed.data(), up.data(),
                       down.data(), exchanged.data());
        for (int lane = 0; lane < 32; ++lane) {
          SCOPED_TRACE("width " + std::to_string(width) + " argument " + std::to_string(argument) + " lane " +
                       std::to_string(lane));
          const auto at = static_cast<std::size_t>(lane);
          const int group = lane / width * width;
          EXPECT_EQ(indexed[at], 100 + group + argument % width);
          EXPECT_EQ(up[at], 100 + (lane - argument >= group ? lane - argument : lane));
          EXPECT_EQ(down[at], 100 + (lane + argument < group + width ? lane + argument : lane));
          const int partner = lane ^ argument;
          EXPECT_EQ(exchanged[at], 100 + (partner < group + width ? partner : lane));
        }
      });
    }
  }
}

template <typename T>
__global__ void reverse_lanes(const T* in, T* out) {
  out[threadIdx.x] = __shfl_sync(kFull, in[threadIdx.x], 31 - static_cast<int>(threadIdx.x));
}

template <typename T>
void expect_reversed() {
  std::vector<T> in(32), out(32);
  for (std::size_t i = 0; i < 32; ++i) in[i] = T(static_cast<float>(i));
  gpusim::launch({.grid = {1}, .block = {32}}, reverse_lanes<T>, in.data(), out.data());
  for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(static_cast<float>(out[i]), static_cast<float>(in[31 - i]));
}

TEST(Collectives, ShufflesOfEveryType) {
  expect_reversed<int>();
  expect_reversed<unsigned>();
  expect_reversed<float>();
  expect_reversed<double>();
  expect_reversed<long long>();
  expect_reversed<unsigned long long>();
  expect_reversed<__half>();
  expect_reversed<__nv_bfloat16>();
}

// ---------------------------------------------------------------- votes and reductions

struct Results {
  unsigned ballot, match, reduced_and, reduced_or, reduced_xor, add_unsigned, min_unsigned, max_unsigned;
  int any, all, add, min, max;
};

// The even and the odd lanes each in their own collective, by their own mask.
__global__ void votes(const int* x, Results* results) {
  const unsigned lane = threadIdx.x;
  const unsigned mask = lane % 2 == 0 ? 0x55555555U : 0xAAAAAAAAU;
  const int mine = x[lane];
  const auto bits = static_cast<unsigned>(mine);
  results[lane] = {
      __ballot_sync(mask, mine > 0), __match_any_sync(mask, mine),  __reduce_and_sync(mask, bits),
      __reduce_or_sync(mask, bits),  __reduce_xor_sync(mask, bits), __reduce_add_sync(mask, bits),
      __reduce_min_sync(mask, bits), __reduce_max_sync(mask, bits), __any_sync(mask, mine == 4),
      __all_sync(mask, mine > -4),   __reduce_add_sync(mask, mine), __reduce_min_sync(mask, mine),
      __reduce_max_sync(mask, mine)};
}

Results expected(const Lanes& x, unsigned lane) {
  Results want = {0, 0, kFull, 0, 0, 0, kFull, 0, 0, 1, 0, std::numeric_limits<int>::max(), -1000};
  for (unsigned other = lane % 2; other < x.size(); other += 2) {
    const int value = x[other];
    const auto bits = static_cast<unsigned>(value);
    want.ballot |= (value > 0 ? 1U : 0U) << other;
    want.match |= (value == x[lane] ? 1U : 0U) << other;
    want.reduced_and &= bits;
    want.reduced_or |= bits;
    want.reduced_xor ^= bits;
    want.add_unsigned += bits;
    want.min_unsigned = std::min(want.min_unsigned, bits);
    want.max_unsigned = std::max(want.max_unsigned, bits);
    want.any |= value == 4 ? 1 : 0;
    want.all &= value > -4 ? 1 : 0;
    want.add += value;
    want.min = std::min(want.min, value);
    want.max = std::max(want.max, value);
  }
  return want;
}

TEST(Collectives, VotesAndReductionsOfAPartialWarp) {
  for (const unsigned threads : {32U, 21U, 2U}) {
    Lanes x(threads);
    for (unsigned i = 0; i < threads; ++i) x[i] = static_cast<int>(i * 7 % 9) - 4;
    gpusim::for_each_schedule([&] {
      std::vector<Results> results(threads);
      gpusim::launch({.grid = {1}, .block = {threads}}, votes, x.data(), results.data());
      for (unsigned lane = 0; lane < threads; ++lane) {
        const Results want = expected(x, lane);
        const Results& got = results[lane];
        EXPECT_EQ(got.ballot, want.ballot);
        EXPECT_EQ(got.match, want.match);
        EXPECT_EQ(got.reduced_and, want.reduced_and);
        EXPECT_EQ(got.reduced_or, want.reduced_or);
        EXPECT_EQ(got.reduced_xor, want.reduced_xor);
        EXPECT_EQ(got.add_unsigned, want.add_unsigned);
        EXPECT_EQ(got.min_unsigned, want.min_unsigned);
        EXPECT_EQ(got.max_unsigned, want.max_unsigned);
        EXPECT_EQ(got.any, want.any);
        EXPECT_EQ(got.all, want.all);
        EXPECT_EQ(got.add, want.add);
        EXPECT_EQ(got.min, want.min);
        EXPECT_EQ(got.max, want.max);
      }
    });
  }
}

// A lane that has left is waited for no more.
__global__ void some_leave(unsigned* ballots) {
  if (threadIdx.x % 3 == 0) return;
  ballots[threadIdx.x] = __ballot_sync(kFull, 1);
}

TEST(Collectives, OnlyLiveLanesAreWaitedFor) {
  gpusim::for_each_schedule([] {
    std::vector<unsigned> ballots(32);
    gpusim::launch({.grid = {1}, .block = {32}}, some_leave, ballots.data());
    for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(ballots[i], i % 3 == 0 ? 0U : 0xB6DB6DB6U);
  });
}

// ---------------------------------------------------------------- atomics

struct Totals {
  int add = 5, sub = 5, min = 5, max = 5;
  unsigned bit_and = kFull, bit_or = 0, bit_xor = 0, swapped = 0, compared = 0;
  unsigned long long wide = 1ULL << 40;
  float real = 0;
  double real_wide = 0;
};

__global__ void atomics(Totals* t) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const auto u = static_cast<unsigned>(i);
  atomicAdd(&t->add, i);
  atomicSub(&t->sub, i);
  atomicMin(&t->min, -i);
  atomicMax(&t->max, i);
  atomicAnd(&t->bit_and, ~(1U << u % 32));
  atomicOr(&t->bit_or, 1U << u % 32);
  atomicXor(&t->bit_xor, u);
  atomicAdd(&t->wide, 1ULL << 33);
  atomicAdd(&t->real, 0.5F);
  atomicAdd(&t->real_wide, 0.25);
  atomicExch(&t->swapped, 7U);
  unsigned seen = atomicCAS(&t->compared, 0U, 1U);
  while (true) {  // an increment by compare and swap
    const unsigned before = atomicCAS(&t->compared, seen, seen + 1);
    if (before == seen) break;
    seen = before;
  }
}

TEST(Collectives, Atomics) {
  gpusim::for_each_schedule([] {
    Totals t;
    gpusim::launch({.grid = {3}, .block = {40}}, atomics, &t);
    constexpr int kSum = 119 * 120 / 2;
    EXPECT_EQ(t.add, 5 + kSum);
    EXPECT_EQ(t.sub, 5 - kSum);
    EXPECT_EQ(t.min, -119);
    EXPECT_EQ(t.max, 119);
    EXPECT_EQ(t.bit_and, 0U);
    EXPECT_EQ(t.bit_or, kFull);
    EXPECT_EQ(t.bit_xor, 0U);  // 0 ^ 1 ^ ... ^ 119
    EXPECT_EQ(t.wide, (1ULL << 40) + 120 * (1ULL << 33));
    EXPECT_EQ(t.real, 60);
    EXPECT_EQ(t.real_wide, 30);
    EXPECT_EQ(t.swapped, 7U);
    EXPECT_EQ(t.compared, 121U);
  });
}

}  // namespace
