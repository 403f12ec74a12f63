// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cuda/adamw_step.cuh"

namespace smet::kernels::cuda {
namespace {

// Every tensor of one dtype.
template <typename Type>
void step_all(Launches& launches, const AdamWStepArgs& args, DType dtype, const StepControl& control) {
  using Item = StepItem<typename Type::Compute>;
  constexpr std::int64_t kChunk = kStepChunk<FullMoments<Type>>;
  const auto launch = [&](const Batch<Item>& batch) {
    launches(batch.chunks(), kStepThreads, adamw_step_kernel<Type, FullMoments<Type>>, batch, control);
  };
  Batches<Item, decltype(launch)> batches(launch);
  for (std::int64_t t = 0; t < args.count; ++t) {
    const AdamWTensor& tensor = args.tensors[t];
    if (tensor.param_dtype != dtype) continue;
    batches.add(step_item<Type, FullMoments<Type>>(tensor, 0), (tensor.size + kChunk - 1) / kChunk);
  }
  batches.flush();
}

template <typename Type>
void check_all(Launches& launches, const Buffer* buffers, std::int64_t count, DType dtype,
               std::int64_t* first) {
  const auto launch = [&](const Batch<FiniteItem>& batch) {
    launches(batch.chunks(), kStepThreads, first_nonfinite_kernel<Type>, batch, first);
  };
  Batches<FiniteItem, decltype(launch)> batches(launch);
  for (std::int64_t b = 0; b < count; ++b) {
    if (buffers[b].dtype != dtype) continue;
    batches.add({buffers[b].data, buffers[b].size, b}, (buffers[b].size + kFiniteChunk - 1) / kFiniteChunk);
  }
  batches.flush();
}

}  // namespace

Status adamw_step(Stream stream, const AdamWStepArgs& args, const StepControl& control) {
  for (std::int64_t t = 0; t < args.count; ++t) {
    const Status status = check_tensor(args.tensors[t]);
    if (status != Status::ok) return status;
  }
  Launches launches(stream);
  step_all<F32>(launches, args, DType::f32, control);
  step_all<F64>(launches, args, DType::f64, control);
  step_all<Bf16>(launches, args, DType::bf16, control);
  step_all<F16>(launches, args, DType::f16, control);
  return launches.status();
}

Status first_nonfinite(Stream stream, const Buffer* buffers, std::int64_t count, std::int64_t* first) {
  // All ones: -1, and the largest unsigned number.
  if (cudaMemsetAsync(first, 0xFF, sizeof *first, stream) != cudaSuccess) return Status::launch_failed;
  Launches launches(stream);
  check_all<F32>(launches, buffers, count, DType::f32, first);
  check_all<F64>(launches, buffers, count, DType::f64, first);
  check_all<Bf16>(launches, buffers, count, DType::bf16, first);
  check_all<F16>(launches, buffers, count, DType::f16, first);
  return launches.status();
}

}  // namespace smet::kernels::cuda
