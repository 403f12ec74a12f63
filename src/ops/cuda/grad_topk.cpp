// SPDX-License-Identifier: BSD-3-Clause
// grad_topk_ on the device: panels of dW in fp32 (fp64 for fp64), each filtered as it passes by. It runs in
// the backward pass before a topology update and never waits for the device.
#include "src/ops/grad_topk.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include "kernels/grad_topk.h"
#include "src/ops/below_autograd.h"
#include "src/ops/cuda/device.h"
#include "src/ops/cuda/expand_gemm.h"
#include "src/ops/cuda/operators.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops::cuda {

void grad_topk_(Tensor& positions, const Tensor& grad_output, const Tensor& input, const Tensor& mask) {
  constexpr const char* op = "grad_topk_";
  const BelowAutograd guard;
  const OnDevice device(input);
  const GradTopkArguments args = check_grad_topk(positions, grad_output, input, mask);
  if (args.k == 0) return;
  const kernels::cuda::GradTopkLayer layer = {args.rows, args.cols, args.k,
                                              dtype_tag(args.x.scalar_type(), "dW")};
  const Tensor scratch = device.scratch(kernels::cuda::grad_topk_scratch(layer));
  void* const memory = scratch.mutable_data_ptr();
  check_status(kernels::cuda::grad_topk_begin(device.stream(), layer, memory), op);
  expand_gemm::for_each_gradient_panel(args.dy, args.x, [&](const kernels::Tile& tile, const Tensor& dw) {
    check_status(kernels::cuda::grad_topk_tile(device.stream(), layer,
                                               {.mask = args.mask,
                                                .rows = args.rows,
                                                .cols = args.cols,
                                                .tile = tile,
                                                .grad = dw.const_data_ptr(),
                                                .grad_dtype = layer.grad_dtype,
                                                .stride = dw.size(1)},
                                               memory),
                 op);
  });
  const Tensor best = at::full({args.k}, -1, positions.options());
  const Tensor found = at::empty({}, positions.options());
  check_status(kernels::cuda::grad_topk_finish(device.stream(), layer, best.mutable_data_ptr<int64_t>(),
                                               found.mutable_data_ptr<int64_t>(), memory),
               op);
  positions.copy_(best);
}

}  // namespace smet::ops::cuda
