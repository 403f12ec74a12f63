// SPDX-License-Identifier: BSD-3-Clause
// Loading this library puts the CUDA operators behind the CPU key, in place of the CPU's own.
#include <gpusim.h>

#include "src/ops/cuda/algorithm_table.h"
#include "src/ops/cuda/operators.h"

TORCH_LIBRARY_IMPL(smet, CPU, m) {
  smet::ops::cuda::register_operators(m);
  smet::ops::set_algorithm_table(c10::DeviceType::CPU, smet::ops::cuda::cuda_algorithms());
}

// How many kernels have been launched: a test must see that they were.
TORCH_LIBRARY_FRAGMENT(smet, m) {
  m.def("gpusim_launches() -> int", [] { return static_cast<int64_t>(gpusim::counts().launches); });
}
