// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/cuda/operators.h"

namespace smet::ops::cuda {

void register_operators(torch::Library& library) {
  library.impl("expand", &expand);
  library.impl("gather", &gather);
  library.impl("sparse_linear", &sparse_linear);
  library.impl("sparse_linear_backward", &sparse_linear_backward);
  library.impl("sparse_linear_backward_input", &sparse_linear_backward_input);
  library.impl("sparse_linear_backward_values", &sparse_linear_backward_values);
  library.impl("adamw_step_", &adamw_step_);
  library.impl("cohort_table", &cohort_table);
  library.impl("count_steps_", &count_steps_);
  library.impl("grad_topk_", &grad_topk_);
  library.impl("mask_rank", &mask_rank);
  library.impl("mask_hash", &mask_hash);
  library.impl("draw_positions", &draw_positions);
  library.impl("topology_plan", &topology_plan);
  library.impl("topology_commit_", &topology_commit_);
  library.impl("topology_update_", &topology_update_);
}

}  // namespace smet::ops::cuda
