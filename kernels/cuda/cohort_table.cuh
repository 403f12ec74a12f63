// SPDX-License-Identifier: BSD-3-Clause
// cohort_table: a block per parameter, a thread per cohort; count_steps: a thread per counter.
#pragma once

#include "kernels/cohort_table.h"
#include "kernels/cuda/batch.cuh"

namespace smet::kernels::cuda {

inline constexpr int kTableThreads = 256;  // one for every id that a uint8 can say

__device__ __forceinline__ double learning_rate(const CohortTable& table) {
  if (table.lr == nullptr) return table.lr_value;
  if (table.lr_dtype == DType::f64) return *static_cast<const double*>(table.lr);
  return static_cast<double>(*static_cast<const float*>(table.lr));
}

__device__ __forceinline__ double warm(const AgeOptions& options, double age) {
  const double ramp = options.warmup > 0 && age < options.warmup ? age / options.warmup : 1.0;
  return ramp * (1 + (options.boost - 1) * exp(-age / options.boost_tau));
}

__device__ __forceinline__ CohortRow table_row(const CohortTable& table, std::int64_t step,
                                               std::int64_t birth) {
  if (birth < 0 || birth >= step) {
    const double nan = __longlong_as_double(0x7FF8000000000000LL);
    return {nan, nan, nan};
  }
  const AgeOptions& ages = table.ages;
  const auto age = static_cast<double>(step - birth);
  const double corrected = ages.local_age ? age : static_cast<double>(step);
  const double rate = learning_rate(table) * table.lr_scale * (birth > 0 ? warm(ages, age) : 1);
  return {rate * table.weight_decay, rate / (1 - pow(ages.beta1, corrected)),
          pow(1 - pow(ages.beta2, corrected), 0.5)};
}

static __global__ void __launch_bounds__(kTableThreads) cohort_table_kernel(const Batch<CohortTable> batch) {
  unsigned chunk = blockIdx.x;
  const CohortTable& table = batch.find(&chunk);
  const std::int64_t step = *table.step + 1;
  const unsigned id = threadIdx.x;
  if (table.births != nullptr) {
    const std::int64_t birth = table.births[id];
    table.rows[id] = table_row(table, step, birth < 0 ? table.births[0] : birth);
  } else if (id == 0) {
    table.rows[0] = table_row(table, step, 0);
  }
  if (id == 0) *table.keys = step_keys(table.seed, table.index, step);
}

// A chunk is one counter, so that a block has up to kTableThreads of them.
struct CounterBatch {
  static constexpr int kCapacity = 480;  // of the 4 KB of parameters that every driver accepts
  std::int64_t* steps[kCapacity];
  int count = 0;
};

static __global__ void __launch_bounds__(kTableThreads)
    count_steps_kernel(const CounterBatch batch, const float* found_inf) {
  if (found_inf != nullptr && *found_inf != 0) return;
  const std::int64_t i = global_thread();
  if (i < batch.count) ++*batch.steps[i];
}

}  // namespace smet::kernels::cuda
