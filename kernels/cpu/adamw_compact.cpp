// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_compact.h"

#include <new>

#include "kernels/cpu/adamw_chunks.h"

namespace smet::kernels::cpu {
namespace {

Status check(const AdamWTensor& tensor, const CompactMoments& moments) {
  if (tensor.grad_dtype != tensor.param_dtype || tensor.param_dtype == DType::f64 ||
      moments.format != MomentFormat::bf16) {
    return Status::unsupported_dtype;
  }
  const bool rows = tensor.cohort_rows >= 1 && tensor.cohort_rows <= static_cast<std::int64_t>(kMaxCohorts);
  return rows ? Status::ok : Status::invalid_argument;
}

}  // namespace

Status adamw_compact(const Executor& executor, const AdamWCompactArgs& args) try {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  for (std::int64_t t = 0; t < args.count; ++t) {
    const Status status = check(args.tensors[t], args.moments[t]);
    if (status != Status::ok) return status;
  }
  const FlatChunks chunks(args.tensors, args.count);
  for_chunks(executor, chunks.count(), [&](std::int64_t chunk) {
    const auto [t, begin] = chunks[chunk];
    const AdamWTensor& tensor = args.tensors[t];
    const auto inner = kernels->adamw_compact->bf16[static_cast<int>(tensor.param_dtype)];
    run_chunk<float>(tensor, begin, sizeof(std::uint16_t), args.moments[t].key, inner);
  });
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

}  // namespace smet::kernels::cpu
