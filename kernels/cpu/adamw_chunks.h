// SPDX-License-Identifier: BSD-3-Clause
// How adamw_step and adamw_compact cut many tensors into chunks and hand one to an inner loop.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/adamw_step.h"
#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu {

inline constexpr std::int64_t kChunk = 16384;  // elements; tensors begin new chunks

// The chunks of many tensors of very different size, numbered through.
class FlatChunks {
 public:
  // chunks_of(t): how many tensor t has.
  template <typename ChunksOf>
  FlatChunks(std::int64_t count, const ChunksOf& chunks_of) {
    first_.reserve(static_cast<std::size_t>(count) + 1);
    first_.push_back(0);
    for (std::int64_t t = 0; t < count; ++t) first_.push_back(first_.back() + chunks_of(t));
  }
  std::int64_t count() const { return first_.back(); }

  struct Place {
    std::int64_t tensor, chunk;  // chunk of the tensor
  };
  Place operator[](std::int64_t chunk) const {
    const auto next = std::upper_bound(first_.begin(), first_.end(), chunk);
    const std::int64_t tensor = next - first_.begin() - 1;
    return {tensor, chunk - first_[static_cast<std::size_t>(tensor)]};
  }

 private:
  std::vector<std::int64_t> first_;
};

constexpr std::int64_t chunks_of_size(std::int64_t size) {
  return (size + kChunk - 1) / kChunk;
}

// run(chunk) for elements [begin, end) of a tensor, whose moments take `moment_size` bytes each.
template <typename Compute, typename Run>
void run_chunk(const AdamWTensor& tensor, std::int64_t begin, std::int64_t end, std::int64_t moment_size,
               std::uint64_t moment_key, const Run& run) {
  // Converted here and not once per tensor: 1 KB to 4 KB on the stack, a few per cent of a chunk's time.
  std::array<Compute, 4 * kMaxCohorts> table;
  const std::int64_t rows = tensor.cohort == nullptr ? 1 : tensor.cohort_rows;
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    table[4 * row] = static_cast<Compute>(tensor.cohorts[row].decay);
    table[4 * row + 1] = static_cast<Compute>(-tensor.cohorts[row].step_size);
    table[4 * row + 2] = static_cast<Compute>(1 / tensor.cohorts[row].bc2_sqrt);
    table[4 * row + 3] = 0;
  }
  const std::int64_t bytes = element_size(tensor.param_dtype) * begin;
  const AdamWChunk chunk = {.param = static_cast<char*>(tensor.param) + bytes,
                            .grad = static_cast<const char*>(tensor.grad) + bytes,
                            .exp_avg = static_cast<char*>(tensor.exp_avg) + moment_size * begin,
                            .exp_avg_sq = static_cast<char*>(tensor.exp_avg_sq) + moment_size * begin,
                            .cohort = tensor.cohort == nullptr ? nullptr : tensor.cohort + begin,
                            .size = end - begin,
                            .first = begin,
                            .table = table.data(),
                            .beta1 = tensor.beta1,
                            .beta2 = tensor.beta2,
                            .eps = tensor.eps,
                            .l2 = tensor.l2,
                            .maximize = tensor.maximize,
                            .stochastic_rounding = tensor.stochastic_rounding,
                            .rounding_key = tensor.rounding_key,
                            .moment_key = moment_key,
                            .master_low = tensor.master_low == nullptr ? nullptr : tensor.master_low + begin};
  run(chunk);
}

// Chunk `chunk` of a tensor that is cut without regard to what its elements are.
template <typename Compute>
void run_chunk(const AdamWTensor& tensor, std::int64_t chunk, std::int64_t moment_size,
               std::uint64_t moment_key, void (*inner)(const AdamWChunk&)) {
  const std::int64_t begin = chunk * kChunk;
  run_chunk<Compute>(tensor, begin, std::min(begin + kChunk, tensor.size), moment_size, moment_key, inner);
}

}  // namespace smet::kernels::cpu
