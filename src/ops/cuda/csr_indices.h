// SPDX-License-Identifier: BSD-3-Clause
// int32 row offsets and columns of a layer, for cuSPARSE: derived on demand, kept while the topology stands.
#pragma once

#include "src/ops/algorithm_table.h"
#include "src/ops/cuda/device.h"

namespace smet::ops::cuda {

// A matrix in compressed sparse rows, without its values.
struct CsrIndices {
  at::Tensor offsets;  // int32 [rows + 1]
  at::Tensor columns;  // int32 [n]
};

// W^T: its value i is value order[i] of W.
struct TransposedIndices {
  CsrIndices csr;
  at::Tensor order;  // int32 [n]
};

// Of the problem's mask. Kept for the next call with the same mask, unwritten since, on the same stream: 4
// bytes per weight, 12 with those of W^T. They go with the mask, or when it changes. Nothing here waits for
// the device. A CUDA graph that holds them is to be captured again after a topology update.
CsrIndices csr_indices(const OnDevice& device, const SparseProblem& problem);
TransposedIndices transposed_indices(const OnDevice& device, const SparseProblem& problem);

}  // namespace smet::ops::cuda
