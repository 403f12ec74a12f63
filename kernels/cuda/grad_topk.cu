// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cuda/grad_topk.cuh"
#include "kernels/grad_topk.h"
#include "kernels/mask_rank.h"

namespace smet::kernels::cuda {
namespace {

constexpr std::int64_t kSlack = 65536;  // candidates held beyond 2 k (grad_topk.h)
constexpr std::int64_t kItemsPerBlock = 4 * kSelectThreads;

// The parts of the scratch, one after the other; each a multiple of 16 bytes.
struct Scratch {
  TopkState* state;
  SelectItem* candidates;  // [2 k + kSlack]
  SelectItem* best;        // [k]
  std::uint32_t* bitmap;   // of the mask's shape
  std::int32_t* rank;      // the bitmap's
  void* for_rank;
  std::int64_t bytes;

  Scratch(const GradTopkLayer& layer, void* memory) : bytes(0) {
    const std::int64_t k = std::max<std::int64_t>(layer.k, 0);
    auto* base = static_cast<char*>(memory);
    const auto part = [&](std::int64_t size) {
      char* here = base == nullptr ? nullptr : base + bytes;
      bytes += (size + 15) / 16 * 16;
      return static_cast<void*>(here);
    };
    state = static_cast<TopkState*>(part(sizeof(TopkState)));
    candidates =
        static_cast<SelectItem*>(part((2 * k + kSlack) * static_cast<std::int64_t>(sizeof(SelectItem))));
    best = static_cast<SelectItem*>(part(k * static_cast<std::int64_t>(sizeof(SelectItem))));
    bitmap = static_cast<std::uint32_t*>(part(4 * layer.rows * words_per_row(layer.cols)));
    rank = static_cast<std::int32_t*>(part(4 * layer.rows * segments_per_row(layer.cols)));
    for_rank = part(mask_rank_scratch(layer.rows, layer.cols));
  }
};

// Thins the candidates to k, if there are more.
void thin(Launches& launches, const GradTopkLayer& layer, const Scratch& scratch) {
  const std::int64_t most = 2 * layer.k + kSlack;
  const Candidates source = {scratch.candidates, scratch.state};
  const int key_bits = static_cast<int>(8 * element_size(layer.grad_dtype));
  const unsigned blocks = striding_blocks(most, kItemsPerBlock);
  launches(1, kSelectThreads, begin_thinning_kernel, scratch.state, static_cast<std::uint64_t>(layer.k));
  select_digits(launches, source, most, key_bits, layer.rows * layer.cols, &scratch.state->selection);
  launches(blocks, kSelectThreads, keep_best_kernel, scratch.candidates, scratch.state, scratch.best);
  launches(striding_blocks(layer.k, kItemsPerBlock), kSelectThreads, copy_best_kernel, scratch.best,
           scratch.state, layer.k, scratch.candidates);
}

template <typename Type>
Status filter(Stream stream, const GradTopkLayer& layer, const GradTopkTileArgs& args,
              const Scratch& scratch) {
  Launches launches(stream);
  const std::int64_t segments = segments_of(args.tile);
  const std::int64_t width = std::min(args.tile.col_end - args.tile.col_begin, kSegmentColumns);
  if (segments == 0) return Status::ok;
  // So few that their candidates fit beside the best k.
  const std::int64_t batch = (layer.k + kSlack) / width;
  for (std::int64_t first = 0; first < segments; first += batch) {
    const std::int64_t count = std::min(batch, segments - first);
    thin(launches, layer, scratch);
    launches(blocks_for(count, kSegmentWarps), kSegmentThreads, filter_kernel<Type>, args, first, count,
             scratch.state, scratch.candidates);
  }
  return launches.status();
}

}  // namespace

std::int64_t grad_topk_scratch(const GradTopkLayer& layer) {
  return Scratch(layer, nullptr).bytes;
}

Status grad_topk_begin(Stream stream, const GradTopkLayer& layer, void* scratch) {
  if (layer.grad_dtype != DType::f32 && layer.grad_dtype != DType::f64) return Status::unsupported_dtype;
  return launch(stream, 1, 1, begin_topk_kernel, Scratch(layer, scratch).state);
}

Status grad_topk_tile(Stream stream, const GradTopkLayer& layer, const GradTopkTileArgs& args,
                      void* scratch) {
  if (args.grad_dtype != layer.grad_dtype) return Status::unsupported_dtype;
  if (layer.k <= 0) return Status::ok;
  const Scratch parts(layer, scratch);
  if (args.grad_dtype == DType::f32) return filter<F32>(stream, layer, args, parts);
  if (args.grad_dtype == DType::f64) return filter<F64>(stream, layer, args, parts);
  return Status::unsupported_dtype;
}

Status grad_topk_finish(Stream stream, const GradTopkLayer& layer, std::int64_t* positions,
                        std::int64_t* found, void* scratch) {
  const Scratch parts(layer, scratch);
  const std::int64_t words = layer.rows * words_per_row(layer.cols);
  Launches launches(stream);
  if (layer.k > 0) thin(launches, layer, parts);
  if (cudaMemsetAsync(parts.bitmap, 0, static_cast<std::size_t>(words) * sizeof(std::uint32_t), stream) !=
      cudaSuccess) {
    return Status::launch_failed;
  }
  if (layer.k > 0) {
    launches(striding_blocks(layer.k, kItemsPerBlock), kSelectThreads, mark_kernel, parts.candidates,
             parts.state, layer.cols, parts.bitmap);
  }
  if (launches.status() != Status::ok) return launches.status();
  const Status ranked =
      mask_rank(stream, {parts.bitmap, parts.rank, layer.rows, layer.cols, found}, parts.for_rank);
  if (ranked != Status::ok) return ranked;
  const std::int64_t segments = layer.rows * segments_per_row(layer.cols);
  const Pattern bitmap = {parts.bitmap, parts.rank, layer.rows, layer.cols, layer.k};
  return launch(stream, blocks_for(segments, kSegmentWarps), kSegmentThreads, list_kernel, bitmap, segments,
                positions);
}

}  // namespace smet::kernels::cuda
