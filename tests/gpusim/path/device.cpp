// SPDX-License-Identifier: BSD-3-Clause
// What src/ops/cuda/device.cpp and sparse_handle.cpp are to a GPU: the simulator's stream, copies inside the
// CPU's memory, a handle.
#include "src/ops/cuda/device.h"

#include <gpusim.h>

#include "src/ops/cuda/sparse_handle.h"

namespace smet::ops::cuda {

kernels::cuda::Stream current_stream(c10::Device) {
  return gpusim::stream();
}

at::Tensor upload(const at::Tensor& host, c10::Device) {
  return host.clone();
}

cusparseHandle_t sparse_handle(const OnDevice& /*device*/) {
  return nullptr;  // cusparse.cpp beside this file needs none
}

}  // namespace smet::ops::cuda
