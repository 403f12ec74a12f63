// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/cuda/device.h"

#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAStream.h>

namespace smet::ops::cuda {

kernels::cuda::Stream current_stream(c10::Device device) {
  return c10::cuda::getCurrentCUDAStream(device.index()).stream();
}

at::Tensor upload(const at::Tensor& host, c10::Device device) {
  TORCH_CHECK(
      c10::cuda::currentStreamCaptureStatusMayInitCtx() == c10::cuda::CaptureStatus::None,
      "smet: a step of CompactAdamW was captured into a CUDA graph, which would repeat the ages and rates "
      "of this one step; build the optimizer with capturable=True");
  return host.pin_memory().to(device, /*non_blocking=*/true);
}

}  // namespace smet::ops::cuda
