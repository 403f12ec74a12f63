// SPDX-License-Identifier: BSD-3-Clause
// expand and gather for any device: checks and allocation, with the device's kernel.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include "kernels/expand.h"
#include "kernels/gather.h"

namespace smet::ops {

at::Tensor expand_with(const at::Tensor& values, const at::Tensor& mask, const at::Tensor& rank, int64_t cols,
                       c10::function_ref<kernels::Status(const kernels::ExpandArgs&)> kernel);
at::Tensor gather_with(const at::Tensor& dense, const at::Tensor& mask, const at::Tensor& rank, int64_t n,
                       c10::function_ref<kernels::Status(const kernels::GatherArgs&)> kernel);

}  // namespace smet::ops
