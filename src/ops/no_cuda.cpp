// SPDX-License-Identifier: BSD-3-Clause
// In a build without SMET_CUDA, in the place of src/ops/cuda: an operator that meets a CUDA tensor says what
// is missing.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace {

void refuse(const c10::OperatorHandle& op, torch::jit::Stack* /*arguments*/) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, op.operator_name().name,
      " got a CUDA tensor, but this smet is built without CUDA kernels. Build it with "
      "them: pip install --no-build-isolation -C cmake.define.SMET_CUDA=ON .  (CMake: "
      "-DSMET_CUDA=ON), or move model and data to the CPU");
}

}  // namespace

TORCH_LIBRARY_IMPL(smet, CUDA, m) {
  for (const char* name : {"expand", "gather", "sparse_linear", "sparse_linear_backward",
                           "sparse_linear_backward_input", "sparse_linear_backward_values", "adamw_step_",
                           "cohort_table", "count_steps_", "grad_topk_", "mask_rank", "mask_hash",
                           "draw_positions", "topology_plan", "topology_commit_", "topology_update_"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse>());
  }
}
