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
  const std::int64_t dense_bytes = element_size(args.dense_dtype);
  TileChunks(args.tile).for_rows(executor, args.pattern, args.stride, [&](const RowPart& row) {
    run({.words = row.words,
         .cols = row.cols,
         .dense = static_cast<const char*>(args.dense) + row.at * dense_bytes,
         .out = args.out,
         .index = row.index});
  });
  return Status::ok;
}

}  // namespace smet::kernels::cpu
