// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/expand.h"

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu {
namespace {

// False when no conversion exists.
bool find_conversion(DType values, DType dense, Conversion& conversion) {
  if (values == dense) {
    conversion = values == DType::f64   ? Conversion::copy64
                 : values == DType::f32 ? Conversion::copy32
                                        : Conversion::copy16;
    return true;
  }
  conversion = values == DType::bf16 ? Conversion::bf16_f32 : Conversion::f16_f32;
  return dense == DType::f32 && element_size(values) == 2;
}

}  // namespace

Status expand(const Executor& executor, const ExpandArgs& args) {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  Conversion conversion{};
  if (!find_conversion(args.values_dtype, args.dense_dtype, conversion)) return Status::unsupported_dtype;
  const auto run = kernels->expand->run[static_cast<int>(conversion)];
  const std::int64_t dense_bytes = element_size(args.dense_dtype);
  TileChunks(args.tile).for_rows(executor, args.pattern, args.stride, [&](const RowPart& row) {
    run({.words = row.words,
         .cols = row.cols,
         .values = args.values,
         .index = row.index,
         .nnz = args.pattern.nnz,
         .dense = static_cast<char*>(args.dense) + row.at * dense_bytes});
  });
  return Status::ok;
}

}  // namespace smet::kernels::cpu
