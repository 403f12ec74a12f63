// SPDX-License-Identifier: BSD-3-Clause
// grad_topk_: the inactive positions of largest |dW|, from tiles of dW that exist one at a time.
#include "src/ops/grad_topk.h"

#include <ATen/ops/from_blob.h>
#include <torch/library.h>

#include <bit>

#include "kernels/grad_topk.h"
#include "src/ops/below_autograd.h"
#include "src/ops/expand_gemm.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops {
namespace {

// [tokens, features] in the dtype that dW is computed in.
at::Tensor flattened(const at::Tensor& tensor, const char* argument) {
  dtype_tag(tensor.scalar_type(), argument);
  TORCH_CHECK_VALUE(tensor.dim() >= 1, "smet::grad_topk_: ", argument,
                    " has no dimensions; expected [..., features]");
  const int64_t features = tensor.size(-1);
  int64_t tokens = 1;
  for (int64_t dim = 0; dim + 1 < tensor.dim(); ++dim) tokens *= tensor.size(dim);
  return tensor.reshape({tokens, features}).to(compute_type(tensor.scalar_type())).contiguous();
}

}  // namespace

GradTopkArguments check_grad_topk(const at::Tensor& positions, const at::Tensor& grad_output,
                                  const at::Tensor& input, const at::Tensor& mask) {
  TORCH_CHECK_TYPE(positions.scalar_type() == at::kLong, "smet::grad_topk_: positions has dtype ",
                   positions.scalar_type(), "; expected int64");
  TORCH_CHECK_TYPE(grad_output.scalar_type() == input.scalar_type(),
                   "smet::grad_topk_: grad_output has dtype ", grad_output.scalar_type(), " and input ",
                   input.scalar_type(), "; expected the same");
  TORCH_CHECK_TYPE(mask.scalar_type() == at::kInt, "smet::grad_topk_: mask has dtype ", mask.scalar_type(),
                   "; expected int32");
  const at::Tensor dy = flattened(grad_output, "grad_output");
  const at::Tensor x = flattened(input, "input");
  const int64_t rows = dy.size(1), cols = x.size(1);
  TORCH_CHECK_VALUE(dy.size(0) == x.size(0), "smet::grad_topk_: grad_output has shape ", grad_output.sizes(),
                    " and input ", input.sizes(), "; expected the same leading dimensions");
  TORCH_CHECK_VALUE(mask.dim() == 2 && mask.size(0) == rows && mask.size(1) == kernels::words_per_row(cols) &&
                        mask.is_contiguous(),
                    "smet::grad_topk_: mask has shape ", mask.sizes(), "; expected a contiguous [", rows,
                    ", ", kernels::words_per_row(cols), "]");
  TORCH_CHECK_VALUE(positions.dim() == 1, "smet::grad_topk_: positions has shape ", positions.sizes(),
                    "; expected [k]");
  for (const at::Tensor* tensor : {&positions, &grad_output, &mask}) {
    TORCH_CHECK_VALUE(tensor->device() == input.device(), "smet::grad_topk_: input is on ", input.device(),
                      ", another argument on ", tensor->device(), "; expected one device");
  }
  return {dy,   x,    reinterpret_cast<const uint32_t*>(mask.const_data_ptr<int32_t>()),
          rows, cols, positions.numel()};
}

namespace {

void grad_topk_(at::Tensor& positions, const at::Tensor& grad_output, const at::Tensor& input,
                const at::Tensor& mask) {
  const BelowAutograd guard;
  const GradTopkArguments args = check_grad_topk(positions, grad_output, input, mask);
  int64_t inactive = args.rows * args.cols;
  for (int64_t word = 0; word < mask.numel(); ++word) inactive -= std::popcount(args.mask[word]);
  TORCH_CHECK_VALUE(args.k <= inactive, "smet::grad_topk_: positions has shape ", positions.sizes(),
                    "; expected [k] with k <= ", inactive, ", the number of inactive positions");
  if (args.k == 0) return;
  kernels::GradTopk state;
  state.k = args.k;
  expand_gemm::for_each_gradient_tile(args.dy, args.x, [&](const kernels::Tile& tile, const at::Tensor& dw) {
    check_status(kernels::cpu::grad_topk_tile(executor(),
                                              {.mask = args.mask,
                                               .rows = args.rows,
                                               .cols = args.cols,
                                               .tile = tile,
                                               .grad = dw.const_data_ptr(),
                                               .grad_dtype = dtype_tag(dw.scalar_type(), "dW"),
                                               .stride = dw.size(1)},
                                              state),
                 "grad_topk_");
  });
  auto found = kernels::cpu::grad_topk_finish(executor(), state);
  positions.copy_(at::from_blob(found.data(), {args.k}, at::TensorOptions().dtype(at::kLong)));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smet, m) {
  m.def("grad_topk_(Tensor(a!) positions, Tensor grad_output, Tensor input, Tensor mask) -> ()");
}

TORCH_LIBRARY_IMPL(smet, CPU, m) {
  m.impl("grad_topk_", &grad_topk_);
}

}  // namespace smet::ops
