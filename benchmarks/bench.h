// SPDX-License-Identifier: BSD-3-Clause
// What the kernel benchmarks share: an executor on OpenMP threads (OMP_NUM_THREADS) and layers to work on.
#pragma once

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "kernels/expand.h"
#include "kernels/mask_rank.h"
#include "kernels/philox.h"

namespace smet::bench {

inline kernels::Executor executor() {
  return {[](std::int64_t chunks, kernels::Executor::Body body, void* context) {
#pragma omp parallel for schedule(static)
            for (std::int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
          },
          omp_get_max_threads()};
}

// A layer of the given density, about.
struct Layer {
  std::int64_t rows, cols;
  std::vector<std::uint32_t> mask;
  std::vector<std::int32_t> rank;
  std::int64_t nnz = 0;

  Layer(std::int64_t rows_, std::int64_t cols_, double density, std::uint64_t seed = 1)
      : rows(rows_),
        cols(cols_),
        mask(static_cast<std::size_t>(rows_ * kernels::words_per_row(cols_))),
        rank(static_cast<std::size_t>(rows_ * kernels::segments_per_row(cols_))) {
    const auto limit = static_cast<std::uint64_t>(density * 0x1p32);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t col = 0; col < cols; ++col) {
        const auto position = static_cast<std::uint64_t>(row * cols + col);
        if ((kernels::mix64(position ^ kernels::mix64(seed)) >> 32) >= limit) continue;
        mask[static_cast<std::size_t>(row * kernels::words_per_row(cols) + col / 32)] |= 1U << (col % 32);
      }
    }
    derive();
  }
  void derive() { kernels::cpu::mask_rank(executor(), {mask.data(), rank.data(), rows, cols, &nnz}); }
  kernels::Pattern pattern() const { return {mask.data(), rank.data(), rows, cols, nnz}; }
};

// Roughly normal numbers.
inline std::vector<float> normal_numbers(std::int64_t size, float scale, std::uint64_t seed) {
  std::vector<float> numbers(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::uint64_t bits = kernels::mix64(kernels::mix64(i) ^ seed);
    float sum = -2;
    for (int part = 0; part < 4; ++part) sum += static_cast<float>(bits >> (16 * part) & 0xFFFFU) * 0x1p-16F;
    numbers[i] = scale * sum;
  }
  return numbers;
}

// Runs step() once and keeps the fastest time in seconds so far: what a shared machine disturbs least.
template <typename F>
void time_fastest(F&& step, double& fastest) {
  const auto start = std::chrono::steady_clock::now();
  step();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  fastest = std::min(fastest, elapsed.count());
}

}  // namespace smet::bench
