// SPDX-License-Identifier: BSD-3-Clause
// cohort_table: the rows of adamw_step's table, and the keys of its random rounding, computed where the
// counters of the updates are. A CUDA graph replays its launches with the arguments that they were captured
// with. So no argument here changes from step to step: counters, births and, where it is a tensor, the
// learning rate are read from memory by the kernel, and every replay is a step of its own.
#pragma once

#include "kernels/adamw_step.h"
#include "kernels/philox.h"

namespace smet::kernels {

// What an age comes to. The fields are CompactAdamW's options.
struct AgeOptions {
  double beta1, beta2;
  double warmup, boost, boost_tau;
  bool local_age;
};

// For one parameter, s = *step + 1 and every cohort c, all in double:
//   b = births[c], or births[0] where that is negative (an unused id); 0 for a dense parameter
//   a = s - b,  A = local_age ? a : s
//   warm(a)   = (warmup > 0 ? min(1, a / warmup) : 1) * (1 + (boost - 1) * exp(-a / boost_tau))
//   lr_w      = (lr * lr_scale) * (b > 0 ? warm(a) : 1)
//   decay     = lr_w * weight_decay
//   step_size = lr_w / (1 - beta1^A)
//   bc2_sqrt  = (1 - beta2^A)^0.5
// and a row of NaN where b is not in 0 to s - 1: such births belong to no run, and nobody can be told here.
// pow and exp are those of where it runs; a device's may differ from the host's in the last bits of a double.
struct CohortTable {
  const std::int64_t* step;    // updates so far; read, not written
  const std::int64_t* births;  // [256]; null: a dense parameter, of one row
  const void* lr;              // of lr_dtype, f32 or f64; null: lr_value
  DType lr_dtype;
  double lr_value;
  double lr_scale;      // density^-p
  double weight_decay;  // decoupled
  AgeOptions ages;
  std::uint64_t seed;
  std::int64_t index;  // of the parameter, in optimizer order
  CohortRow* rows;     // [256], or [1]
  StepKeys* keys;      // step_keys(seed, index, s)
};

struct CohortTableArgs {
  const CohortTable* tables;
  std::int64_t count;
};

// One more update in every counter; none where *found_inf is not 0. found_inf may be null.
struct CountStepsArgs {
  std::int64_t* const* steps;
  std::int64_t count;
  const float* found_inf;
};

// Keys of parameter `index` at the step that makes its counter `step`. The key of the parameter's own
// rounding is never 0, which means off; that of its moments has bits of its own.
constexpr StepKeys step_keys(std::uint64_t seed, std::int64_t index, std::int64_t step) {
  constexpr std::uint64_t kMoments = 0x6D6F6D656E747321;
  const std::uint64_t parameter =
      mix64(seed + 0x9E3779B97F4A7C15ULL * (static_cast<std::uint64_t>(index) + 1));
  const std::uint64_t key = mix64(parameter ^ mix64(static_cast<std::uint64_t>(step)));
  const std::uint64_t rounding = key == 0 ? 1 : key;
  return {rounding, mix64(rounding ^ kMoments)};
}

namespace reference {

double warm(double warmup, double boost, double boost_tau, std::int64_t age);

// The parts of a row that do not depend on the learning rate.
struct AgeFactors {
  double bias1, bias2_sqrt, warm;  // 1 - beta1^A, (1 - beta2^A)^0.5, warm(a) or 1
};
AgeFactors age_factors(const AgeOptions& options, std::int64_t step, std::int64_t birth);

Status cohort_table(const Executor& executor, const CohortTableArgs& args);
Status count_steps(const Executor& executor, const CountStepsArgs& args);

}  // namespace reference
namespace cuda {
// The descriptions are read on the host, before these return; what they point to is device memory.
Status cohort_table(Stream stream, const CohortTableArgs& args);
Status count_steps(Stream stream, const CountStepsArgs& args);
}  // namespace cuda

}  // namespace smet::kernels
