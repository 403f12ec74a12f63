# SPDX-License-Identifier: BSD-3-Clause
# The CUDA kernels, one list for those who compile them: nvcc, with nvcc.options, and g++ for tests/gpusim, with
# -ffp-contract=off.
set(SMET_CUDA_SOURCES
  adamw_compact.cu
  adamw_step.cu
  cohort_table.cu
  csr_columns.cu
  expand.cu
  gather.cu
  grad_topk.cu
  keyed_draws.cu
  mask_rank.cu
  norm.cu
  topology_update.cu)
list(TRANSFORM SMET_CUDA_SOURCES PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
