// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/first_nonfinite.h"

#include <ATen/ops/isfinite.h>

#include <vector>

#include "kernels/adamw_step.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops {
namespace {

bool all_finite(const at::Tensor& tensor) {
  if (!tensor.device().is_cpu()) return at::isfinite(tensor).all().item<bool>();
  // Any order of the elements will do, so a transposed tensor needs no copy.
  const at::Tensor dense = tensor.is_non_overlapping_and_dense() ? tensor : tensor.contiguous();
  const kernels::Buffer buffer{dense.const_data_ptr(), dense.numel(),
                               dtype_tag(dense.scalar_type(), "a gradient")};
  return kernels::cpu::first_nonfinite(executor(), &buffer, 1) < 0;
}

}  // namespace

std::int64_t first_nonfinite(at::TensorList tensors) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!all_finite(tensors[i])) return static_cast<std::int64_t>(i);
  }
  return -1;
}

}  // namespace smet::ops
