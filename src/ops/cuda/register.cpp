// SPDX-License-Identifier: BSD-3-Clause
// The one place that names the CUDA dispatch key. tests/gpusim registers the same functions, over kernels
// that it executes on the CPU, behind the CPU key.
#include "src/ops/cuda/algorithm_table.h"
#include "src/ops/cuda/operators.h"

TORCH_LIBRARY_IMPL(smet, CUDA, m) {
  smet::ops::cuda::register_operators(m);
  smet::ops::set_algorithm_table(c10::DeviceType::CUDA, smet::ops::cuda::cuda_algorithms());
}
