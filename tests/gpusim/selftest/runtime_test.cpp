// SPDX-License-Identifier: BSD-3-Clause
// What the runtime promises to correct kernels.
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "kernels/cuda/shared.cuh"

namespace {

// ---------------------------------------------------------------- kernels

// sums[block] = sum of x over the block's elements: shuffles inside a warp, shared memory between warps.
__global__ void block_sums(const int* x, int n, int* sums) {
  SMET_SHARED(int, partial, [32]);
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  int sum = i < n ? x[i] : 0;
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(0xFFFFFFFFU, sum, delta);
  const unsigned warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) partial[warp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  int total = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) total += partial[w];
  sums[blockIdx.x] = total;
}

// ---------------------------------------------------------------- tests

TEST(Runtime, BlockSums) {
  constexpr int kBlocks = 5;
  std::vector<int> x(kBlocks * 96 - 7);
  std::iota(x.begin(), x.end(), -100);
  gpusim::for_each_schedule([&] {
    std::vector<int> sums(kBlocks);
    gpusim::launch({.grid = {kBlocks}, .block = {96}}, block_sums, x.data(), static_cast<int>(x.size()),
                   sums.data());
    for (std::size_t b = 0; b < kBlocks; ++b) {
      const auto begin = x.begin() + static_cast<std::ptrdiff_t>(b * 96);
      const auto end = std::min(begin + 96, x.end());
      EXPECT_EQ(sums[b], std::accumulate(begin, end, 0)) << b;
    }
  });
}

}  // namespace
