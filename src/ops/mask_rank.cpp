// SPDX-License-Identifier: BSD-3-Clause
// mask_rank and mask_hash: what is derived from a mask alone.
#include "kernels/mask_rank.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include "src/ops/kernel_glue.h"

namespace smet::ops {
namespace {

// The one door by which a mask enters the library, so its contents are checked here.
const uint32_t* checked_mask(const at::Tensor& mask, int64_t cols, const char* op) {
  TORCH_CHECK_TYPE(mask.scalar_type() == at::kInt, "smet::", op, ": mask has dtype ", mask.scalar_type(),
                   "; expected int32");
  TORCH_CHECK_VALUE(cols >= 0 && mask.dim() == 2 && mask.size(1) == kernels::words_per_row(cols),
                    "smet::", op, ": mask has shape ", mask.sizes(), "; for ", cols,
                    " input features expected [out, ", kernels::words_per_row(cols), "]");
  TORCH_CHECK_VALUE(mask.is_contiguous(), "smet::", op, ": mask must be contiguous");
  const auto* words = reinterpret_cast<const uint32_t*>(mask.const_data_ptr<int32_t>());
  TORCH_CHECK_VALUE(!kernels::has_pad_bits(words, mask.size(0), cols), "smet::", op,
                    ": mask has bits set at or beyond column ", cols,
                    ", the number of input features; it was made for another shape or is damaged");
  return words;
}

at::Tensor mask_rank(const at::Tensor& mask, int64_t cols) {
  const uint32_t* words = checked_mask(mask, cols, "mask_rank");
  at::Tensor rank = at::empty({mask.size(0), kernels::segments_per_row(cols)}, mask.options());
  int64_t nnz = 0;
  check_status(kernels::cpu::mask_rank(executor(), {.mask = words,
                                                    .rank = rank.mutable_data_ptr<int32_t>(),
                                                    .rows = mask.size(0),
                                                    .cols = cols,
                                                    .nnz = &nnz}),
               "mask_rank");
  return rank;
}

at::Tensor mask_hash(const at::Tensor& mask, int64_t cols) {
  const uint32_t* words = checked_mask(mask, cols, "mask_hash");
  const uint64_t hash = kernels::cpu::mask_hash(executor(), {words, mask.size(0), cols});
  return at::scalar_tensor(static_cast<int64_t>(hash), at::TensorOptions().dtype(at::kLong));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smet, m) {
  m.def("mask_rank(Tensor mask, SymInt cols) -> Tensor");
  m.def("mask_hash(Tensor mask, SymInt cols) -> Tensor");
}

TORCH_LIBRARY_IMPL(smet, CPU, m) {
  m.impl("mask_rank", &mask_rank);
  m.impl("mask_hash", &mask_hash);
}

}  // namespace smet::ops
