# SPDX-License-Identifier: BSD-3-Clause
# The operators on CUDA. Those of SMET_CUDA_TORCH need a CUDA build of torch; tests/gpusim brings its own for
# kernels that it executes on the CPU, and a cuSPARSE in plain loops.
set(SMET_CUDA_OPERATORS
  adamw_step.cpp algorithm_table.cpp cohort_table.cpp csr_indices.cpp cusparse.cpp draw_positions.cpp expand.cpp
  expand_gemm.cpp grad_topk.cpp mask_rank.cpp operators.cpp scratch.cpp sparse_linear.cpp topology_update.cpp)
list(TRANSFORM SMET_CUDA_OPERATORS PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
set(SMET_CUDA_TORCH device.cpp register.cpp sparse_handle.cpp)
list(TRANSFORM SMET_CUDA_TORCH PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
