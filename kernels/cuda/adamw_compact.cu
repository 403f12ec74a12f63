// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_compact.h"
#include "kernels/cuda/adamw_compact.cuh"

namespace smet::kernels::cuda {
namespace {

struct Block8Codes {
  using Storage = std::uint8_t;
  static constexpr int kElements = kBlock8Elements;
};

Status check(const AdamWTensor& tensor, const CompactMoments& moments) {
  if (tensor.param_dtype == DType::f64) return Status::unsupported_dtype;
  const bool blocks = moments.format == MomentFormat::bf16 || moments.block_segments >= 1;
  const Status status = check_tensor(tensor);
  return status == Status::ok && !blocks ? Status::invalid_argument : status;
}

// Calls add(tensor, moments) for every tensor of one dtype and format.
template <typename Add>
void for_each_of(const AdamWCompactArgs& args, DType dtype, MomentFormat format, const Add& add) {
  for (std::int64_t t = 0; t < args.count; ++t) {
    if (args.tensors[t].param_dtype == dtype && args.moments[t].format == format) {
      add(args.tensors[t], args.moments[t]);
    }
  }
}

template <typename Type>
void step_bf16(Launches& launches, const AdamWCompactArgs& args, DType dtype, const StepControl& control) {
  constexpr std::int64_t kChunk = kStepChunk<Bf16Moments>;
  const auto launch = [&](const Batch<StepItem<float>>& batch) {
    launches(batch.chunks(), kStepThreads, adamw_step_kernel<Type, Bf16Moments>, batch, control);
  };
  Batches<StepItem<float>, decltype(launch)> batches(launch);
  for_each_of(args, dtype, MomentFormat::bf16, [&](const AdamWTensor& tensor, const CompactMoments& moments) {
    batches.add(step_item<Type, Bf16Moments>(tensor, moments.key), (tensor.size + kChunk - 1) / kChunk);
  });
  batches.flush();
}

template <typename Type>
void step_block8(Launches& launches, const AdamWCompactArgs& args, DType dtype, const StepControl& control) {
  const auto launch = [&](const Batch<Block8Item>& batch) {
    launches(batch.chunks(), kStepThreads, block8_kernel<Type>, batch, control);
  };
  Batches<Block8Item, decltype(launch)> batches(launch);
  for_each_of(
      args, dtype, MomentFormat::block8, [&](const AdamWTensor& tensor, const CompactMoments& moments) {
        const std::int64_t blocks = moments.rows * blocks_per_row(moments.cols, moments.block_segments);
        batches.add({step_item<Type, Block8Codes>(tensor, moments.key), moments.rank, moments.rows,
                     moments.cols, blocks, moments.block_segments, moments.scale, moments.scale_sq},
                    (blocks + kBlock8Chunk - 1) / kBlock8Chunk);
      });
  batches.flush();
}

template <typename Type>
void step_all(Launches& launches, const AdamWCompactArgs& args, DType dtype, const StepControl& control) {
  step_bf16<Type>(launches, args, dtype, control);
  step_block8<Type>(launches, args, dtype, control);
}

}  // namespace

Status adamw_compact(Stream stream, const AdamWCompactArgs& args, const StepControl& control) {
  for (std::int64_t t = 0; t < args.count; ++t) {
    const Status status = check(args.tensors[t], args.moments[t]);
    if (status != Status::ok) return status;
  }
  Launches launches(stream);
  step_all<F32>(launches, args, DType::f32, control);
  step_all<Bf16>(launches, args, DType::bf16, control);
  step_all<F16>(launches, args, DType::f16, control);
  return launches.status();
}

}  // namespace smet::kernels::cuda
