// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace smet {

// Flat positions row * cols + column of the n active entries of a mask, int64 [n], ascending, on the mask's
// device.
at::Tensor active_positions(const at::Tensor& mask, const at::Tensor& rank, std::int64_t cols,
                            std::int64_t n);

// Number of bits set in an int32 tensor.
std::int64_t count_bits(const at::Tensor& words);

}  // namespace smet
