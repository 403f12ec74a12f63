// SPDX-License-Identifier: BSD-3-Clause
// What a topology update moves, on any device: the checks that come before the first write.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace smet::ops {

inline constexpr int64_t kCohortIds = 256;  // what a uint8 can say

struct CarriedTensor {
  at::Tensor tensor;
  const char* what;
};
using Carried = std::vector<CarriedTensor>;

// cohort (first: its kernel may ask for memory), values and moments: contiguous [n], on one device, of
// element sizes that relayout knows, and each with memory of its own.
Carried check_carried(const at::Tensor& values, at::TensorList moments,
                      const std::optional<at::Tensor>& cohort, int64_t newborn_cohort);
void check_commit_scratch(const at::Tensor& scratch, const at::Tensor& values, at::TensorList moments);

// What topology_update_ returns: int64 [2 + 256] on the host, k, number of NaN scores, pruned weights of each
// cohort.
at::Tensor update_summary(int64_t k, int64_t nan_count, const at::Tensor& died);

}  // namespace smet::ops
