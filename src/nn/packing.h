// SPDX-License-Identifier: BSD-3-Clause
// Positions as a packed mask [out, ceil(in / 32)]; the twin of python/smet/_packing.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace smet {

// Set bits of a packed mask.
std::int64_t active_positions(const at::Tensor& mask);

// Boolean [out, in] -> int32 words on the CPU.
at::Tensor pack(const at::Tensor& dense);

// Packed mask of the n largest |w| of weight [out, in]: what pruning the smallest (ties: smaller flat
// position) leaves. NaN counts as smallest. Not torch::topk, whose choice among equals is unspecified.
at::Tensor magnitude_mask(const at::Tensor& weight, std::int64_t n);

}  // namespace smet
