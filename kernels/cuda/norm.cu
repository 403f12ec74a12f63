// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cuda/norm.cuh"
#include "kernels/norm.h"

namespace smet::kernels::cuda {
namespace {

std::int64_t chunks_of(const Buffer& buffer) {
  return (buffer.size + kNormChunk - 1) / kNormChunk;
}

std::int64_t all_chunks(const Buffer* buffers, std::int64_t count) {
  std::int64_t chunks = 0;
  for (std::int64_t b = 0; b < count; ++b) chunks += chunks_of(buffers[b]);
  return chunks;
}

// The partial sums of every buffer of one dtype; `partial` is that of the first chunk of the first buffer.
template <typename Type>
void sum_all(Launches& launches, const Buffer* buffers, std::int64_t count, DType dtype, double* partial) {
  const auto launch = [&](const Batch<NormItem>& batch) {
    launches(batch.chunks(), kNormThreads, partial_sums_kernel<Type>, batch);
  };
  Batches<NormItem, decltype(launch)> batches(launch);
  for (std::int64_t b = 0; b < count; partial += chunks_of(buffers[b++])) {
    if (buffers[b].dtype != dtype) continue;
    const bool vectors = reinterpret_cast<std::uintptr_t>(buffers[b].data) % 16 == 0;
    batches.add({buffers[b].data, buffers[b].size, partial, vectors}, chunks_of(buffers[b]));
  }
  batches.flush();
}

}  // namespace

std::int64_t sum_of_squares_scratch(const Buffer* buffers, std::int64_t count) {
  return all_chunks(buffers, count) * static_cast<std::int64_t>(sizeof(double));
}

Status sum_of_squares(Stream stream, const Buffer* buffers, std::int64_t count, double* sum, void* scratch) {
  auto* partial = static_cast<double*>(scratch);
  Launches launches(stream);
  sum_all<F32>(launches, buffers, count, DType::f32, partial);
  sum_all<F64>(launches, buffers, count, DType::f64, partial);
  sum_all<Bf16>(launches, buffers, count, DType::bf16, partial);
  sum_all<F16>(launches, buffers, count, DType::f16, partial);
  launches(1, kNormThreads, add_partial_sums_kernel, partial, all_chunks(buffers, count), sum);
  return launches.status();
}

}  // namespace smet::kernels::cuda
