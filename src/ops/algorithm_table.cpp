// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/algorithm_table.h"

#include <cstdlib>
#include <map>
#include <string>
#include <utility>

#include "kernels/isa.h"
#include "src/ops/expand_gemm.h"
#include "src/ops/tile_spmm.h"

namespace smet::ops {
namespace {

bool always(const SparseProblem&) {
  return true;
}

// Where tile_spmm beats expand_gemm: up to density d * tokens / (tokens + t). Decoding is paid per call and a
// tile has at least 16 tokens, hence the form.
struct Crossover {
  double d, t;
};

// Forward + backward against nn.Linear, time ratio tile_spmm / expand_gemm, median of the minima of 2048x768
// and 768x768, 1 thread, MKL (benchmarks/algorithm_crossover.py). Zen 4, AVX2, dense at 80 to 100 GFLOP/s:
//   tokens     d = .75     d = .5      d = .25     d = .05    crossover at d
//      512    1.22/1.03    .85/1.05                                .62
//      128    1.38/1.10   1.02/1.08    .58/1.03    .27/1.11        .52
//       64    1.73/1.19   1.30/1.09    .74/1.03    .36/1.02        .42
//       32    1.86/1.14   1.52/1.10    .82/ .97    .40/ .97        .30
//        8    2.83/1.30   2.06/1.10   1.34/1.01    .61/ .88        .13
//        1    6.39/1.89   4.90/1.67   3.21/1.49   1.37/1.12        < .05
constexpr Crossover kDefault = {.65, 40};

// Sapphire Rapids, AVX-512, dense at 195 GFLOP/s: MKL's full width gains dense products more than ours.
//   tokens     d = .6      d = .5      d = .4      d = .3      d = .2      d = .1    crossover at d
//     2048   1.11/1.08   1.13/1.13    .75/1.07                                            .50
//      512   1.13/1.14    .94/1.09    .82/1.11                                            .60
//      128   1.39/1.27   1.20/1.29   1.03/1.24                                            .54
//       64                           1.36/1.34    .98/1.24                                .39
//       32                           1.94/1.48   1.39/1.44   1.25/1.46                    .31
//        8                                       2.18/1.58   1.88/1.46   1.31/1.40        .12
// On 2 threads at 512 tokens (and 2048x2048): 1.22/1.13 at d = .6, 1.06/1.10 at .5, .82/1.07 at .4.
constexpr Crossover kWideDense = {.56, 30};

bool has_wide_dense() {
#ifdef __x86_64__
  return __builtin_cpu_is("intel") != 0 && kernels::has_isa(kernels::Isa::avx512);
#else
  return false;
#endif
}

bool few_weights_for_the_tokens(const SparseProblem& problem) {
  static const Crossover crossover = has_wide_dense() ? kWideDense : kDefault;
  const auto tokens = static_cast<double>(problem.tokens);
  const double positions =
      static_cast<double>(problem.pattern.rows) * static_cast<double>(problem.pattern.cols);
  return static_cast<double>(problem.pattern.nnz) <=
         crossover.d * tokens / (tokens + crossover.t) * positions;
}

std::string known_names(const AlgorithmTable& table) {
  std::string names = "auto";
  for (const Algorithm& row : table) names += std::string(", ") + row.name;
  return names;
}

// Read at every call, so that a test can set it; getenv costs nanoseconds.
std::string_view resolve_auto(std::string_view name) {
  if (name != "auto") return name;
  const char* const from_environment = std::getenv("SMET_ALGORITHM");
  return from_environment != nullptr && *from_environment != '\0' ? from_environment : name;
}

// Those of devices that this file does not know are added as their libraries are loaded.
std::map<c10::DeviceType, AlgorithmTable>& tables() {
  static std::map<c10::DeviceType, AlgorithmTable> all = {
      {c10::DeviceType::CPU,
       {
           {"tile_spmm", tile_spmm::applies, few_weights_for_the_tokens, tile_spmm::forward,
            tile_spmm::backward},
           {"expand_gemm", always, always, expand_gemm::forward, expand_gemm::backward},
       }}};
  return all;
}

}  // namespace

const AlgorithmTable& algorithm_table(c10::DeviceType device) {
  static const AlgorithmTable none;
  const auto found = tables().find(device);
  return found == tables().end() ? none : found->second;
}

void set_algorithm_table(c10::DeviceType device, AlgorithmTable rows) {
  tables()[device] = std::move(rows);
}

const Algorithm& choose_algorithm(const AlgorithmTable& table, std::string_view name,
                                  const SparseProblem& problem) {
  name = resolve_auto(name);
  for (const Algorithm& row : table) {
    if (name != "auto" && name != row.name) continue;
    if (row.applies(problem) && (name != "auto" || row.preferred(problem))) return row;
    TORCH_CHECK_VALUE(name == "auto", "smet: algorithm '", name, "' does not apply to a ",
                      problem.pattern.rows, "x", problem.pattern.cols, " layer of dtype ", problem.dtype,
                      " with ", problem.tokens, " tokens; choose 'auto'");
  }
  TORCH_CHECK_VALUE(
      false, "smet: unknown algorithm '", name, "' for device ", problem.device,
      " (layer option `algorithm` or environment variable SMET_ALGORITHM); known: ", known_names(table));
}

}  // namespace smet::ops
