# SPDX-License-Identifier: BSD-3-Clause
# The operators on CUDA. device.cpp and register.cpp are the two that need a CUDA build of torch; tests/gpusim
# brings its own for kernels that it executes on the CPU.
set(SMET_CUDA_OPERATORS
  adamw_step.cpp draw_positions.cpp expand.cpp mask_rank.cpp operators.cpp scratch.cpp sparse_linear.cpp
  topology_update.cpp)
list(TRANSFORM SMET_CUDA_OPERATORS PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
set(SMET_CUDA_TORCH "${CMAKE_CURRENT_LIST_DIR}/device.cpp" "${CMAKE_CURRENT_LIST_DIR}/register.cpp")
