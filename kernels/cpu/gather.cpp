// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/gather.h"

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu {
namespace {

GatherMode same_dtype(DType dtype, bool accumulate) {
  switch (dtype) {
    case DType::f32:
      return accumulate ? GatherMode::add_f32 : GatherMode::copy32;
    case DType::f64:
      return accumulate ? GatherMode::add_f64 : GatherMode::copy64;
    case DType::bf16:
      return accumulate ? GatherMode::add_bf16 : GatherMode::copy16;
    case DType::f16:
      break;
  }
  return accumulate ? GatherMode::add_f16 : GatherMode::copy16;
}

// False when there is no such mode.
bool find_mode(const GatherArgs& args, GatherMode& mode) {
  if (args.dense_dtype == args.out_dtype) {
    mode = same_dtype(args.out_dtype, args.accumulate);
    return true;
  }
  if (args.dense_dtype != DType::f32 || element_size(args.out_dtype) != 2) return false;
  if (args.out_dtype == DType::bf16) {
    mode = args.accumulate ? GatherMode::add_f32_bf16 : GatherMode::f32_bf16;
  } else {
    mode = args.accumulate ? GatherMode::add_f32_f16 : GatherMode::f32_f16;
  }
  return true;
}

}  // namespace

Status gather(const Executor& executor, const GatherArgs& args) {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  GatherMode mode{};
  if (!find_mode(args, mode)) return Status::unsupported_dtype;
  const auto run = kernels->gather->run[static_cast<int>(mode)];
  const Pattern& pattern = args.pattern;
  const TileChunks chunks(args.tile);
  const std::int64_t dense_bytes = element_size(args.dense_dtype);
  for_chunks(executor, chunks.count(), [&](std::int64_t chunk) {
    const Tile tile = chunks[chunk];
    for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
      const std::int64_t at =
          (row - args.tile.row_begin) * args.stride + (tile.col_begin - args.tile.col_begin);
      run({.words = pattern.mask + row * words_per_row(pattern.cols) + tile.col_begin / kWordColumns,
           .cols = tile.col_end - tile.col_begin,
           .dense = static_cast<const char*>(args.dense) + at * dense_bytes,
           .out = args.out,
           .index = packed_index(pattern, row, tile.col_begin)});
    }
  });
  return Status::ok;
}

}  // namespace smet::kernels::cpu
