// SPDX-License-Identifier: BSD-3-Clause
// What an operator on CUDA needs of torch besides tensors. Operators enqueue on the stream that torch has
// made current and take scratch from torch's allocator. Forward, backward and the step (without check_finite)
// never wait for the device and never read from it. That makes forward and backward capturable into a CUDA
// graph; a captured step would replay the cohort tables of the step it was captured in, so it is called
// outside. Only topology updates and checks of a new mask read back.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include "kernels/types.h"

namespace smet::ops::cuda {

kernels::cuda::Stream current_stream(c10::Device device);

// A copy of a host tensor on `device`, enqueued on its current stream. The host memory it comes from is
// pinned and kept by torch until the copy is done.
at::Tensor upload(const at::Tensor& host, c10::Device device);

// The device of a tensor, current for as long as this lives, and its stream.
class OnDevice {
 public:
  explicit OnDevice(const at::Tensor& tensor)
      : guard_(tensor.device()), stream_(current_stream(tensor.device())), options_(tensor.options()) {}

  kernels::cuda::Stream stream() const { return stream_; }
  at::Tensor scratch(int64_t bytes) const;

 private:
  c10::DeviceGuard guard_;
  kernels::cuda::Stream stream_;
  at::TensorOptions options_;
};

}  // namespace smet::ops::cuda
