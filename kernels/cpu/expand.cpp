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
           .values = args.values,
           .index = packed_index(pattern, row, tile.col_begin),
           .nnz = pattern.nnz,
           .dense = static_cast<char*>(args.dense) + at * dense_bytes});
    }
  });
  return Status::ok;
}

}  // namespace smet::kernels::cpu
