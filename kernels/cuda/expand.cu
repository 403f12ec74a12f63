// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cuda/expand.cuh"

namespace smet::kernels::cuda {
namespace {

template <typename Values, typename Dense>
Status run(Stream stream, const ExpandArgs& args) {
  const std::int64_t segments = segments_of(args.tile);
  return launch(stream, blocks_for(segments, kSegmentWarps), kSegmentThreads, expand_kernel<Values, Dense>,
                args, segments);
}

}  // namespace

Status expand(Stream stream, const ExpandArgs& args) {
  if (args.values_dtype == args.dense_dtype) {
    switch (args.values_dtype) {
      case DType::f32:
        return run<F32, F32>(stream, args);
      case DType::f64:
        return run<F64, F64>(stream, args);
      case DType::bf16:
      case DType::f16:  // bits are moved: one kernel for both
        return run<Bf16, Bf16>(stream, args);
    }
  }
  if (args.dense_dtype == DType::f32) {
    if (args.values_dtype == DType::bf16) return run<Bf16, F32>(stream, args);
    if (args.values_dtype == DType::f16) return run<F16, F32>(stream, args);
  }
  return Status::unsupported_dtype;
}

}  // namespace smet::kernels::cuda
