// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/csr_columns.h"
#include "kernels/cuda/csr_columns.cuh"

namespace smet::kernels::cuda {

Status csr_columns(Stream stream, const CsrColumnsArgs& args) {
  const std::int64_t segments = args.pattern.rows * segments_per_row(args.pattern.cols);
  return launch(stream, blocks_for(segments, kSegmentWarps), kSegmentThreads, csr_columns_kernel,
                args.pattern, segments, args.columns);
}

}  // namespace smet::kernels::cuda
