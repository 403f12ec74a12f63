// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_step.h"

#include <algorithm>
#include <atomic>
#include <new>

#include "kernels/cpu/adamw_chunks.h"

namespace smet::kernels::cpu {

Status adamw_step(const Executor& executor, const AdamWStepArgs& args) try {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  for (std::int64_t t = 0; t < args.count; ++t) {
    const Status status = check_tensor(args.tensors[t]);
    if (status != Status::ok) return status;
  }
  const FlatChunks chunks(args.count, [&](std::int64_t t) { return chunks_of_size(args.tensors[t].size); });
  for_chunks(executor, chunks.count(), [&](std::int64_t flat) {
    const auto [t, chunk] = chunks[flat];
    const AdamWTensor& tensor = args.tensors[t];
    const auto inner = kernels->adamw_step->chunk[static_cast<int>(tensor.param_dtype)];
    if (tensor.param_dtype == DType::f64) {
      run_chunk<double>(tensor, chunk, sizeof(double), 0, inner);
    } else {
      run_chunk<float>(tensor, chunk, sizeof(float), 0, inner);
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
  const FlatChunks chunks(count, [&](std::int64_t b) { return chunks_of_size(buffers[b].size); });
  std::atomic<std::int64_t> first{count};
  for_chunks(executor, chunks.count(), [&](std::int64_t flat) {
    const auto [b, chunk] = chunks[flat];
    const Buffer& buffer = buffers[b];
    const std::int64_t begin = chunk * kChunk;
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
