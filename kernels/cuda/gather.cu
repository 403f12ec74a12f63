// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cuda/gather.cuh"
#include "kernels/gather.h"

namespace smet::kernels::cuda {
namespace {

template <typename Dense, typename Out>
Status run(Stream stream, const GatherArgs& args) {
  const std::int64_t segments = segments_of(args.tile);
  return launch(stream, blocks_for(segments, kSegmentWarps), kSegmentThreads, gather_kernel<Dense, Out>, args,
                segments);
}

}  // namespace

Status gather(Stream stream, const GatherArgs& args) {
  if (args.dense_dtype == args.out_dtype) {
    switch (args.out_dtype) {
      case DType::f32:
        return run<F32, F32>(stream, args);
      case DType::f64:
        return run<F64, F64>(stream, args);
      case DType::bf16:
        return run<Bf16, Bf16>(stream, args);
      case DType::f16:
        return run<F16, F16>(stream, args);
    }
  }
  if (args.dense_dtype == DType::f32) {
    if (args.out_dtype == DType::bf16) return run<F32, Bf16>(stream, args);
    if (args.out_dtype == DType::f16) return run<F32, F16>(stream, args);
  }
  return Status::unsupported_dtype;
}

}  // namespace smet::kernels::cuda
