// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/algorithm_table.h"

#include <cstdlib>
#include <string>

#include "src/ops/expand_gemm.h"
#include "src/ops/tile_spmm.h"

namespace smet::ops {
namespace {

bool always(const SparseProblem&) {
  return true;
}

std::string known_names(c10::DeviceType device) {
  std::string names = "auto";
  for (const Algorithm& row : algorithm_table()) {
    if (row.device == device) names += std::string(", ") + row.name;
  }
  return names;
}

// Read at every call, so that a test can set it; getenv costs nanoseconds.
std::string_view resolve_auto(std::string_view name) {
  if (name != "auto") return name;
  const char* const from_environment = std::getenv("SMET_ALGORITHM");
  return from_environment != nullptr && *from_environment != '\0' ? from_environment : name;
}

}  // namespace

const std::vector<Algorithm>& algorithm_table() {
  static const std::vector<Algorithm> table = {
      {"tile_spmm", c10::DeviceType::CPU, tile_spmm::applies, tile_spmm::forward, tile_spmm::backward},
      {"expand_gemm", c10::DeviceType::CPU, always, expand_gemm::forward, expand_gemm::backward},
  };
  return table;
}

const Algorithm& choose_algorithm(std::string_view name, const SparseProblem& problem) {
  name = resolve_auto(name);
  for (const Algorithm& row : algorithm_table()) {
    if (row.device != problem.device || (name != "auto" && name != row.name)) continue;
    if (row.applies(problem)) return row;
    TORCH_CHECK_VALUE(name == "auto", "smet: algorithm '", name, "' does not apply to a ",
                      problem.pattern.rows, "x", problem.pattern.cols, " layer of dtype ", problem.dtype,
                      " with ", problem.tokens, " tokens; choose 'auto'");
  }
  TORCH_CHECK_VALUE(false, "smet: unknown algorithm '", name, "' for device ", problem.device,
                    " (layer option `algorithm` or environment variable SMET_ALGORITHM); known: ",
                    known_names(problem.device));
}

}  // namespace smet::ops
