// SPDX-License-Identifier: BSD-3-Clause
// What an operator on CUDA needs of torch besides tensors. Operators enqueue on the stream that torch has
// made current and take scratch from torch's allocator. Forward, backward and the step (without check_finite)
// never wait for the device and never read from it; only topology updates and checks of a new mask do.
//
// That, and four things more, make a training step capturable into a CUDA graph:
// - scratch and results come from torch's allocator, which keeps a captured graph's memory in a pool of its
//   own, so that the addresses which its launches hold stay valid;
// - descriptions of tensors travel as parameters of the launch (kernels/cuda/batch.cuh), not in memory that
// is
//   free again once the step is enqueued;
// - with CompactAdamW(capturable=True) what differs from step to step is read on the device: counters, births
//   and learning rate by cohort_table, tables and rounding keys by adamw_step, a GradScaler's verdict by
//   both. Without, tables are uploaded, and upload() refuses to be captured;
// - a topology update changes values, state, mask and ranks in place and keeps every shape, so that a graph
//   stays valid across updates (but for the algorithm cusparse: csr_indices.h).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include "kernels/types.h"

namespace smet::ops::cuda {

kernels::cuda::Stream current_stream(c10::Device device);

// A copy of a host tensor on `device`, enqueued on its current stream. The host memory it comes from is
// pinned and kept by torch until the copy is done. Throws while that stream is being captured: a graph would
// copy from that memory at every replay.
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
