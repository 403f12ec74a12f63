// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/mask_rank.h"

#include <ATen/ops/empty.h>

#include <limits>

#include "src/ops/cuda/mask.h"
#include "src/ops/cuda/operators.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops::cuda {

void check_mask(const OnDevice& device, const Tensor& mask, int64_t cols, const char* op) {
  TORCH_CHECK_TYPE(mask.scalar_type() == at::kInt, "smet::", op, ": mask has dtype ", mask.scalar_type(),
                   "; expected int32");
  TORCH_CHECK_VALUE(
      cols >= 0 && mask.dim() == 2 && mask.size(1) == kernels::words_per_row(cols) && mask.is_contiguous(),
      "smet::", op, ": mask has shape ", mask.sizes(), "; for ", cols,
      " input features expected a contiguous [out, ", kernels::words_per_row(cols), "]");
  const Tensor found = at::empty({}, mask.options());
  check_status(kernels::cuda::has_pad_bits(device.stream(), {words(mask), mask.size(0), cols},
                                           found.mutable_data_ptr<int32_t>()),
               op);
  TORCH_CHECK_VALUE(found.item<int32_t>() == 0, "smet::", op, ": mask has bits set at or beyond column ",
                    cols, ", the number of input features; it was made for another shape or is damaged");
}

Ranks derive_ranks(const OnDevice& device, const Tensor& mask, int64_t cols, const char* op) {
  const int64_t rows = mask.size(0);
  const Tensor rank = at::empty({rows, kernels::segments_per_row(cols)}, mask.options());
  const Tensor active = at::empty({}, mask.options().dtype(at::kLong));
  const Tensor scratch = device.scratch(kernels::cuda::mask_rank_scratch(rows, cols));
  check_status(kernels::cuda::mask_rank(device.stream(),
                                        {.mask = words(mask),
                                         .rank = rank.mutable_data_ptr<int32_t>(),
                                         .rows = rows,
                                         .cols = cols,
                                         .nnz = active.mutable_data_ptr<int64_t>()},
                                        scratch.mutable_data_ptr()),
               op);
  const auto count = active.item<int64_t>();
  if (count > std::numeric_limits<int32_t>::max()) check_status(kernels::Status::too_many_active, op);
  return {rank, count};
}

Tensor mask_rank(const Tensor& mask, int64_t cols) {
  const OnDevice device(mask);
  check_mask(device, mask, cols, "mask_rank");
  return derive_ranks(device, mask, cols, "mask_rank").rank;
}

Tensor mask_hash(const Tensor& mask, int64_t cols) {
  const OnDevice device(mask);
  check_mask(device, mask, cols, "mask_hash");
  const Tensor hash = at::empty({}, mask.options().dtype(at::kLong));
  const Tensor scratch = device.scratch(kernels::cuda::mask_hash_scratch());
  check_status(kernels::cuda::mask_hash(device.stream(), {words(mask), mask.size(0), cols},
                                        reinterpret_cast<uint64_t*>(hash.mutable_data_ptr<int64_t>()),
                                        scratch.mutable_data_ptr()),
               "mask_hash");
  return hash.cpu();  // on the host, as everywhere
}

}  // namespace smet::ops::cuda
