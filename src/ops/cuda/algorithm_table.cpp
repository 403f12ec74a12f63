// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/cuda/algorithm_table.h"

#include "src/ops/cuda/cusparse.h"
#include "src/ops/cuda/expand_gemm.h"

namespace smet::ops::cuda {
namespace {

bool always(const SparseProblem&) {
  return true;
}
bool never(const SparseProblem&) {
  return false;
}

}  // namespace

// cusparse is only taken when asked for: by estimate it wins below a density of 3 to 5 %, and no time has
// been measured yet (benchmarks/device.py will tell).
const AlgorithmTable& cuda_algorithms() {
  static const AlgorithmTable table = {
      {"expand_gemm", always, always, expand_gemm::forward, expand_gemm::backward},
      {"cusparse", always, never, cusparse::forward, cusparse::backward},
  };
  return table;
}

}  // namespace smet::ops::cuda
