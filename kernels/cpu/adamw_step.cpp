// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_step.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <new>
#include <vector>

#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu {
namespace {

constexpr std::int64_t kChunk = 16384;  // elements; tensors begin new chunks
constexpr std::size_t kMaxCohorts = 256;

// The chunks of many tensors of very different size, numbered through.
class FlatChunks {
 public:
  template <typename Sized>
  FlatChunks(const Sized* tensors, std::int64_t count) {
    first_.reserve(static_cast<std::size_t>(count) + 1);
    first_.push_back(0);
    for (std::int64_t t = 0; t < count; ++t) {
      first_.push_back(first_.back() + (tensors[t].size + kChunk - 1) / kChunk);
    }
  }
  std::int64_t count() const { return first_.back(); }

  struct Place {
    std::int64_t tensor, begin;  // element of the tensor
  };
  Place operator[](std::int64_t chunk) const {
    const auto next = std::upper_bound(first_.begin(), first_.end(), chunk);
    const std::int64_t tensor = next - first_.begin() - 1;
    return {tensor, (chunk - first_[static_cast<std::size_t>(tensor)]) * kChunk};
  }

 private:
  std::vector<std::int64_t> first_;
};

template <typename Compute>
void run_chunk(const AdamWTensor& tensor, std::int64_t begin, void (*chunk)(const AdamWChunk&)) {
  // Converted here and not once per tensor: 1 KB to 4 KB on the stack, a few per cent of a chunk's time.
  std::array<Compute, 4 * kMaxCohorts> table;
  const std::int64_t rows = tensor.cohort == nullptr ? 1 : tensor.cohort_rows;
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    table[4 * row] = static_cast<Compute>(tensor.cohorts[row].decay);
    table[4 * row + 1] = static_cast<Compute>(-tensor.cohorts[row].step_size);
    table[4 * row + 2] = static_cast<Compute>(tensor.cohorts[row].bc2_sqrt);
    table[4 * row + 3] = 0;
  }
  const std::int64_t bytes = element_size(tensor.param_dtype) * begin;
  chunk({.param = static_cast<char*>(tensor.param) + bytes,
         .grad = static_cast<const char*>(tensor.grad) + bytes,
         .exp_avg = static_cast<Compute*>(tensor.exp_avg) + begin,
         .exp_avg_sq = static_cast<Compute*>(tensor.exp_avg_sq) + begin,
         .cohort = tensor.cohort == nullptr ? nullptr : tensor.cohort + begin,
         .size = std::min(kChunk, tensor.size - begin),
         .first = begin,
         .table = table.data(),
         .beta1 = tensor.beta1,
         .beta2 = tensor.beta2,
         .eps = tensor.eps,
         .l2 = tensor.l2,
         .maximize = tensor.maximize,
         .stochastic_rounding = tensor.stochastic_rounding,
         .rounding_key = tensor.rounding_key});
}

}  // namespace

Status adamw_step(const Executor& executor, const AdamWStepArgs& args) try {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  for (std::int64_t t = 0; t < args.count; ++t) {
    const AdamWTensor& tensor = args.tensors[t];
    if (tensor.grad_dtype != tensor.param_dtype) return Status::unsupported_dtype;
    if (tensor.cohort_rows < 1 || tensor.cohort_rows > static_cast<std::int64_t>(kMaxCohorts)) {
      return Status::invalid_argument;
    }
  }
  const FlatChunks chunks(args.tensors, args.count);
  for_chunks(executor, chunks.count(), [&](std::int64_t chunk) {
    const auto [t, begin] = chunks[chunk];
    const AdamWTensor& tensor = args.tensors[t];
    const auto inner = kernels->adamw_step->chunk[static_cast<int>(tensor.param_dtype)];
    if (tensor.param_dtype == DType::f64) {
      run_chunk<double>(tensor, begin, inner);
    } else {
      run_chunk<float>(tensor, begin, inner);
    }
  });
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

std::int64_t first_nonfinite(const Executor& executor, const Buffer* buffers, std::int64_t count) {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr)
    kernels = &baseline::kKernels;  // the answer is the same; adamw_step reports the error
  const FlatChunks chunks(buffers, count);
  std::atomic<std::int64_t> first{count};
  for_chunks(executor, chunks.count(), [&](std::int64_t chunk) {
    const auto [b, begin] = chunks[chunk];
    const Buffer& buffer = buffers[b];
    std::int64_t found = first.load(std::memory_order_relaxed);
    if (b >= found) return;
    const char* data = static_cast<const char*>(buffer.data) + begin * element_size(buffer.dtype);
    const auto has_nonfinite = kernels->adamw_step->has_nonfinite[static_cast<int>(buffer.dtype)];
    if (!has_nonfinite(data, std::min(kChunk, buffer.size - begin))) return;
    while (b < found && !first.compare_exchange_weak(found, b, std::memory_order_relaxed)) {
    }
  });
  return first == count ? -1 : first.load();
}

}  // namespace smet::kernels::cpu
