// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cuda/topology_update.cuh"
#include "kernels/topology_update.h"

namespace smet::kernels::cuda {
namespace {

std::int64_t segments_of(const Pattern& pattern) {
  return pattern.rows * segments_per_row(pattern.cols);
}

template <typename Type, ScoreOrder order>
Status select(Stream stream, const SelectKeepArgs& args, Selection* selection) {
  static_assert(sizeof(std::int64_t) == sizeof(unsigned long long), "counts are added to as unsigned");
  const Pattern& pattern = args.pattern;
  const Scores<Type, order> scores = {static_cast<const typename Type::Storage*>(args.score), pattern.nnz};
  if (cudaMemsetAsync(args.nan_count, 0, sizeof *args.nan_count, stream) != cudaSuccess) {
    return Status::launch_failed;
  }
  Launches launches(stream);
  radix_select(launches, scores, pattern.nnz, args.k, kKeyBits<Type>, pattern.nnz, selection);
  const std::int64_t segments = segments_of(pattern);
  launches(blocks_for(segments, kSegmentWarps), kSegmentThreads, keep_kernel<Type, order>, pattern, scores,
           selection, segments, args.keep, reinterpret_cast<unsigned long long*>(args.nan_count));
  return launches.status();
}

template <typename Type>
Status select(Stream stream, const SelectKeepArgs& args, Selection* selection) {
  return args.order == ScoreOrder::magnitude
             ? select<Type, ScoreOrder::magnitude>(stream, args, selection)
             : select<Type, ScoreOrder::signed_value>(stream, args, selection);
}

}  // namespace

std::int64_t select_keep_scratch() {
  return sizeof(Selection);
}

Status select_keep(Stream stream, const SelectKeepArgs& args, void* scratch) {
  if (args.k < 0 || args.k > args.pattern.nnz) return Status::invalid_argument;
  auto* selection = static_cast<Selection*>(scratch);
  switch (args.score_dtype) {
    case DType::f32:
      return select<F32>(stream, args, selection);
    case DType::f64:
      return select<F64>(stream, args, selection);
    case DType::bf16:
      return select<Bf16>(stream, args, selection);
    case DType::f16:
      return select<F16>(stream, args, selection);
  }
  return Status::unsupported_dtype;
}

Status relayout(Stream stream, const RelayoutLayerArgs& args) {
  if (args.count < 0 || args.count > kRelayoutArrays) return Status::invalid_argument;
  RelayoutBatch batch = {};
  batch.old_pattern = args.old_pattern;
  batch.new_pattern = args.new_pattern;
  batch.segments = segments_of(args.old_pattern);
  batch.count = static_cast<int>(args.count);
  batch.cohort = args.cohort;
  batch.new_cohort = args.new_cohort;
  batch.newborn = args.newborn;
  batch.died = reinterpret_cast<unsigned long long*>(args.died);
  for (int a = 0; a < batch.count; ++a) {
    const std::int64_t bytes = args.arrays[a].element_bytes;
    if (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8) return Status::unsupported_dtype;
    batch.arrays[a] = args.arrays[a];
  }
  if (args.died != nullptr && cudaMemsetAsync(args.died, 0, 256 * sizeof *args.died, stream) != cudaSuccess) {
    return Status::launch_failed;
  }
  return launch(stream, blocks_for(batch.segments, kSegmentWarps), kSegmentThreads, relayout_kernel, batch);
}

}  // namespace smet::kernels::cuda
