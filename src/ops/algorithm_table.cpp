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
// and 768x768, 1 thread, MKL (benchmarks/algorithm_crossover.py), Sapphire Rapids. With AVX2 (SMET_ISA and
// MKL_ENABLE_INSTRUCTIONS), dense at 80 GFLOP/s:
//   tokens     d = .75     d = .6      d = .5      d = .4      d = .2      d = .1    crossover at d
//      512    1.25/1.08   1.00/1.08    .88/1.08                                            .63
//      128    1.31/1.23   1.21/1.16   1.11/1.18    .82/1.07                                .56
//       64    1.86/1.35   1.57/1.33   1.16/1.33   1.14/1.26                                .53
//       32                            1.60/1.45   1.30/1.36    .84/1.30    .53/1.33        .43
//        8                            3.22/1.82   2.69/1.80   1.52/1.91   1.21/1.59        .25
//        1                            4.09/1.74   4.28/2.22   2.47/1.75   1.73/1.80        .1
constexpr Crossover kDefault = {.65, 20};

// With AVX-512, dense at 195 GFLOP/s: MKL's full width gains dense products more than ours.
//   tokens     d = .75     d = .6      d = .5      d = .4      d = .2      d = .1    crossover at d
//     2048    1.21/1.12    .99/1.05    .87/1.04    .74/1.13                                .66
//      512    1.37/1.18   1.01/1.08   1.00/1.13    .84/1.12                                .64
//      128    1.45/1.33   1.24/1.26   1.14/1.27    .92/1.23                                .60
//       64    1.74/1.46   1.51/1.41   1.26/1.37   1.03/1.27                                .55
//       32                            1.69/1.66   1.66/1.59   1.12/1.53    .80/1.43        .42
//        8                            2.67/1.81   2.35/1.73   1.67/1.69   1.24/1.61        .2
//        1                            3.97/2.11   3.77/2.10   2.53/1.96   2.11/2.08        .1
// On 2 threads at 512 tokens (and 2048x2048): 1.17/1.10 at d = .6, 1.04/1.14 at .5.
constexpr Crossover kWideDense = {.58, 14};

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
