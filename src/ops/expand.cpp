// SPDX-License-Identifier: BSD-3-Clause
// expand and gather: packed values <-> the dense matrix, each the other's derivative.
#include "src/ops/expand.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "src/ops/kernel_glue.h"

namespace smet::ops {

at::Tensor expand_with(const at::Tensor& values, const at::Tensor& mask, const at::Tensor& rank, int64_t cols,
                       c10::function_ref<kernels::Status(const kernels::ExpandArgs&)> kernel) {
  TORCH_CHECK_VALUE(values.dim() == 1, "smet::expand: values has shape ", values.sizes(),
                    "; expected [n], one value per active weight");
  const auto dtype = dtype_tag(values.scalar_type(), "values");
  const auto pattern = make_pattern(mask, rank, cols, values.numel());
  const at::Tensor packed = values.contiguous();
  at::Tensor dense = at::empty({pattern.rows, cols}, values.options());
  if (dense.numel() == 0) return dense;
  check_status(kernel({.pattern = pattern,
                       .tile = {0, pattern.rows, 0, cols},
                       .values = packed.const_data_ptr(),
                       .values_dtype = dtype,
                       .dense = dense.mutable_data_ptr(),
                       .dense_dtype = dtype,
                       .stride = cols}),
               "expand");
  return dense;
}

at::Tensor gather_with(const at::Tensor& dense, const at::Tensor& mask, const at::Tensor& rank, int64_t n,
                       c10::function_ref<kernels::Status(const kernels::GatherArgs&)> kernel) {
  TORCH_CHECK_VALUE(dense.dim() == 2, "smet::gather: dense has shape ", dense.sizes(),
                    "; expected [out_features, in_features]");
  const auto dtype = dtype_tag(dense.scalar_type(), "dense");
  const int64_t cols = dense.size(1);
  const auto pattern = make_pattern(mask, rank, cols, n);
  TORCH_CHECK_VALUE(dense.size(0) == pattern.rows, "smet::gather: dense has ", dense.size(0),
                    " rows, mask has ", pattern.rows);
  const at::Tensor source = dense.contiguous();
  at::Tensor values = at::empty({n}, dense.options());
  if (n == 0) return values;
  check_status(kernel({.pattern = pattern,
                       .tile = {0, pattern.rows, 0, cols},
                       .dense = source.const_data_ptr(),
                       .dense_dtype = dtype,
                       .stride = cols,
                       .out = values.mutable_data_ptr(),
                       .out_dtype = dtype,
                       .accumulate = false}),
               "gather");
  return values;
}

namespace {

at::Tensor expand(const at::Tensor& values, const at::Tensor& mask, const at::Tensor& rank, int64_t cols) {
  return expand_with(values, mask, rank, cols,
                     [](const kernels::ExpandArgs& args) { return kernels::cpu::expand(executor(), args); });
}

at::Tensor gather(const at::Tensor& dense, const at::Tensor& mask, const at::Tensor& rank, int64_t n) {
  return gather_with(dense, mask, rank, n,
                     [](const kernels::GatherArgs& args) { return kernels::cpu::gather(executor(), args); });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smet, m) {
  m.def("expand(Tensor values, Tensor mask, Tensor rank, SymInt cols) -> Tensor");
  m.def("gather(Tensor dense, Tensor mask, Tensor rank, SymInt n) -> Tensor");
}

TORCH_LIBRARY_IMPL(smet, CPU, m) {
  m.impl("expand", &expand);
  m.impl("gather", &gather);
}

}  // namespace smet::ops
