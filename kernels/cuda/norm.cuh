// SPDX-License-Identifier: BSD-3-Clause
// norm: a partial sum per chunk of a tensor, then one block adds the partial sums.
#pragma once

#include "kernels/cuda/batch.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/scan.cuh"

namespace smet::kernels::cuda {

inline constexpr int kNormThreads = 256;
inline constexpr std::int64_t kNormChunk = 32768;

struct NormItem {
  const void* data;
  std::int64_t size;
  double* partial;  // of the item's first chunk
  bool vectors;     // aligned for 16 bytes
};

template <typename Type>
__global__ void __launch_bounds__(kNormThreads) partial_sums_kernel(const Batch<NormItem> batch) {
  using Storage = typename Type::Storage;
  constexpr int kCount = 16 / sizeof(Storage);
  SMET_SHARED(double, warps, [kNormThreads / kWarp]);
  unsigned chunk = blockIdx.x;
  const NormItem& item = batch.find(&chunk);
  const auto* data = static_cast<const Storage*>(item.data);
  const std::int64_t begin = chunk * kNormChunk;
  const std::int64_t end = item.size - begin < kNormChunk ? item.size : begin + kNormChunk;
  double sum = 0;
  for (std::int64_t i = begin + std::int64_t{threadIdx.x} * kCount; i < end; i += kNormThreads * kCount) {
    Vector<Storage, kCount> x{};
    if (item.vectors && i + kCount <= end) {
      x = *reinterpret_cast<const Vector<Storage, kCount>*>(data + i);
    } else {
      for (int e = 0; e < kCount; ++e) {
        if (i + e < end) x.at[e] = data[i + e];
      }
    }
    for (int e = 0; e < kCount; ++e) {
      const auto one = static_cast<double>(Type::load(x.at[e]));
      sum += one * one;
    }
  }
  double total;
  block_exclusive_sum<kNormThreads>(sum, warps, &total);
  if (threadIdx.x == 0) item.partial[chunk] = total;
}

// One block. *sum = the sum of the partial ones.
static __global__ void __launch_bounds__(kNormThreads)
    add_partial_sums_kernel(const double* partial, std::int64_t count, double* sum) {
  SMET_SHARED(double, warps, [kNormThreads / kWarp]);
  double mine = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kNormThreads) mine += partial[i];
  double total;
  block_exclusive_sum<kNormThreads>(mine, warps, &total);
  if (threadIdx.x == 0) *sum = total;
}

}  // namespace smet::kernels::cuda
