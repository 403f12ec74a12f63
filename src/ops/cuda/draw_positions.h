// SPDX-License-Identifier: BSD-3-Clause
// Keyed draws of inactive positions, for draw_positions and for random growth.
#pragma once

#include "kernels/keyed_draws.h"
#include "src/ops/cuda/device.h"

namespace smet::ops::cuda {

// A mask of the k chosen positions. `args` says all but the pointers and the number of rows.
at::Tensor draw(const OnDevice& device, const at::Tensor& mask, kernels::DrawPositionsArgs args,
                const char* op);

uint32_t checked_update(int64_t update, const char* op);

}  // namespace smet::ops::cuda
