// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace smet::ops {

// Index of the first of `tensors` (floating, strided, of any device) that holds NaN or infinity, or -1.
std::int64_t first_nonfinite(at::TensorList tensors);

}  // namespace smet::ops
