// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty.h>

#include "src/ops/cuda/device.h"

namespace smet::ops::cuda {

at::Tensor OnDevice::scratch(int64_t bytes) const {
  return at::empty({bytes}, options_.dtype(at::kByte).requires_grad(false));
}

}  // namespace smet::ops::cuda
