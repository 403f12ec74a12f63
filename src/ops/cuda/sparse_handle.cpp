// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/cuda/sparse_handle.h"

#include <ATen/cuda/CUDAContextLight.h>

namespace smet::ops::cuda {

cusparseHandle_t sparse_handle(const OnDevice& /*device: current while it lives*/) {
  return at::cuda::getCurrentCUDASparseHandle();
}

}  // namespace smet::ops::cuda
