// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "src/ops/algorithm_table.h"

namespace smet::ops::cuda {

// The ways to compute a sparse layer on the device.
const AlgorithmTable& cuda_algorithms();

}  // namespace smet::ops::cuda
