// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/expand.h"

#include "src/ops/cuda/device.h"
#include "src/ops/cuda/operators.h"

namespace smet::ops::cuda {

Tensor expand(const Tensor& values, const Tensor& mask, const Tensor& rank, int64_t cols) {
  const OnDevice device(values);
  return expand_with(values, mask, rank, cols, [&](const kernels::ExpandArgs& args) {
    return kernels::cuda::expand(device.stream(), args);
  });
}

Tensor gather(const Tensor& dense, const Tensor& mask, const Tensor& rank, int64_t n) {
  const OnDevice device(dense);
  return gather_with(dense, mask, rank, n, [&](const kernels::GatherArgs& args) {
    return kernels::cuda::gather(device.stream(), args);
  });
}

}  // namespace smet::ops::cuda
