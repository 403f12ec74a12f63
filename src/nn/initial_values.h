// SPDX-License-Identifier: BSD-3-Clause
// Initial positions and values of a sparse layer, drawn by the keyed generator: a function of (seed, layer
// name, shape) alone, the same from Python and C++, on every device and with any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>

namespace smet {

struct InitialValues {
  std::uint64_t seed = 0;
  std::string name;                // canonical layer name
  std::optional<double> init_std;  // empty: uniform, as nn.Linear
  bool fan_in_scale = false;       // multiply the values by 1 / sqrt(density)
};

// Fills values [n] of the layer (mask, rank, cols), in place. With u1, u2 in (0, 1) the two 32-bit halves of
// the keyed draw of the flat position p = row * cols + column (DrawStream::init_values, key
// layer_key(seed, name)):
//   init_std empty   value = (2 u - 1) / sqrt(cols), u from all 53 leading bits; nn.Linear's own distribution
//   init_std = s     value = s * sqrt(-2 ln u1) * cos(2 pi u2)                   (Box-Muller)
// times 1 / sqrt(d) with fan_in_scale, d = n / (out * cols). Computed in fp64, rounded to values' dtype
// (through fp32 for bf16 and fp16). Throws ValueError when init_std is negative or not finite.
void fill_initial_values(at::Tensor& values, const at::Tensor& mask, const at::Tensor& rank,
                         std::int64_t cols, const InitialValues& how);

// Fills bias [out], in place: uniform in +-1 / sqrt(cols) under the key of name + ".bias", or 0 with
// init_std.
void fill_initial_bias(at::Tensor& bias, std::int64_t cols, const InitialValues& how);

// The mask [out, ceil(cols / 32)], int32 on the CPU, of n positions drawn under layer_key(seed, name).
at::Tensor draw_initial_mask(std::int64_t out_features, std::int64_t cols, std::int64_t n, std::uint64_t seed,
                             const std::string& name);

}  // namespace smet
