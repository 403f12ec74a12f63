// SPDX-License-Identifier: BSD-3-Clause
// The one place where ages become numbers: rows (decay, step_size, bc2_sqrt) of the AdamW kernel's table, in
// double, for both front ends.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <list>
#include <string>
#include <string_view>

#include "kernels/cohort_table.h"
#include "smet/age_schedule.h"

namespace smet {

inline constexpr std::int64_t kCohortIds = 256;

// Options of one parameter group, as the README ("The method") names them.
struct AdamWHyper {
  double lr = 1e-3;
  at::Tensor lr_tensor;  // capturable: where defined, the learning rate, read on its device at every step
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;
  bool coupled_weight_decay = false;
  double density_scaling = 0.5;  // p: the learning rate is multiplied by density^-p
  AgeSchedule age_schedule;
  bool local_age = true;  // false: bias corrections by the global step (plain Adam), for comparison
  bool maximize = false;
  bool stochastic_rounding = false;
  bool master_weights = false;   // of bfloat16 parameters: 16 more bits of each beside it
  std::string moments = "fp32";  // how both moments are stored: "fp32", "bf16" or "8bit"
  std::uint64_t seed = 0;

  // Throws ValueError naming the option that is out of range.
  void check() const;
  // What kernels/cohort_table.h asks for. A custom age schedule is not in it.
  kernels::AgeOptions ages() const;
};

// When the weights of one parameter were born.
struct CohortClock {
  std::int64_t step;           // updates of this parameter, counting the coming one; >= 1
  const std::int64_t* births;  // [256]: step after which the cohort was regrown, 0 = initial, -1 = unused id.
                               // Null: a dense parameter, one row
};

// Tables of one optimizer step. Layers that share clock and options share a table; layers that differ in
// density alone share the costly part. Row of a cohort with age a = step - birth:
//   lr_w      = lr * density^-p * (birth > 0 ? warm(a) : 1)
//   decay     = lr_w * weight_decay            (0 when the decay is coupled)
//   step_size = lr_w / (1 - beta1^A)
//   bc2_sqrt  = (1 - beta2^A)^0.5              A = local_age ? a : step
// Rows of unused ids repeat row 0, so that every id is defined. The formula is kernels/cohort_table.h's.
class CohortTables {
 public:
  // float64 [256, 3], or [1, 3] without births. Throws ValueError, naming the parameter, when a birth is not
  // before the step, lr is not finite or density is not in (0, 1]. The tensor must not be written.
  at::Tensor table(const CohortClock& clock, const AdamWHyper& hyper, double density, std::string_view name);

 private:
  struct Ages {
    std::int64_t step;
    bool has_births;
    std::array<std::int64_t, kCohortIds> births;
    double beta1, beta2;
    bool local_age;
    const AgeSchedule* schedule;
    std::array<kernels::reference::AgeFactors, kCohortIds> factors;  // per id
  };
  struct Entry {
    const Ages* ages;
    double rate, decay;
    at::Tensor table;
  };

  const Ages& ages(const CohortClock& clock, const AdamWHyper& hyper, std::string_view name);

  std::list<Ages> ages_;  // a list: entries point into it
  std::list<Entry> entries_;
};

// Throws ValueError, naming the parameter, unless `cohort` is uint8 [n], `births` int64 [256], the births lie
// in 0 to `step` (-1: unused id) and every id that a weight carries has one. For state that comes from a
// file.
void check_cohorts(const at::Tensor& cohort, const at::Tensor& births, std::int64_t n, std::int64_t step,
                   const std::string& name);

// Key of the stochastic rounding of parameter `index` (in optimizer order) at `step`; never 0, which means
// off.
std::int64_t rounding_key(std::uint64_t seed, std::int64_t index, std::int64_t step);

// The same for the rounding of its moments (kernels/adamw_compact.h), with bits of their own.
std::int64_t moment_key(std::uint64_t seed, std::int64_t index, std::int64_t step);

}  // namespace smet
