// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cusparse.h>

#include "src/ops/cuda/device.h"

namespace smet::ops::cuda {

// torch's cuSPARSE handle of this thread and device, on the current stream. torch owns it.
cusparseHandle_t sparse_handle(const OnDevice& device);

}  // namespace smet::ops::cuda
