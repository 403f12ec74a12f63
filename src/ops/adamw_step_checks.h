// SPDX-License-Identifier: BSD-3-Clause
// What smet::adamw_step_ looks at before the first write, on any device.
#pragma once

#include "src/ops/adamw_step.h"

namespace smet::ops {

// Throws, naming the parameter, unless everything fits.
void check_arguments(const AdamWArguments& args);

// Its part for the keys that are on a device.
void check_keys(const std::optional<at::Tensor>& keys, at::TensorList params);

// The storage of parameter i's moments, of which 8-bit ones are checked here.
kernels::CompactMoments compact_moments(const AdamWArguments& args, size_t i, const std::string& name);

}  // namespace smet::ops
