// SPDX-License-Identifier: BSD-3-Clause
// What stands between operators and kernels: at::parallel_for as an executor, dtype tags, checks of the
// packed layout, and kernel statuses turned into exceptions.
#pragma once

#include <ATen/core/Tensor.h>

#include <limits>

#include "kernels/types.h"

namespace smet::ops {

// Runs chunks on torch's intra-op threads (at::parallel_for, grain 1); a call of few operations
// (multiply-adds, elements packed) on the calling thread alone. Which one it is changes no result.
kernels::Executor executor(int64_t operations = std::numeric_limits<int64_t>::max());

// Tag of a floating dtype; throws for any other, naming `argument` and what is supported.
kernels::DType dtype_tag(at::ScalarType type, const char* argument);

// fp64 for fp64, else fp32: what a kernel computes in, and the dtype of Adam's moments.
at::ScalarType compute_type(at::ScalarType type);

// The Pattern of (mask, rank) for a layer with `cols` input features and n active weights. Throws when a
// shape, dtype, device or stride is not that of the README's table. Contents are trusted: they are
// checked where a mask enters the library (mask_rank, loading), not at every forward.
kernels::Pattern make_pattern(const at::Tensor& mask, const at::Tensor& rank, int64_t cols, int64_t n);

// Throws when `status` is not ok; `op` is the operator's name.
void check_status(kernels::Status status, const char* op);

}  // namespace smet::ops
