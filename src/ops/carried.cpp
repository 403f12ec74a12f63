// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/carried.h"

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "src/ops/topology_update.h"

namespace smet::ops {
namespace {

constexpr uintptr_t kScratchAlignment = 8;  // of the largest element

void check_tensors(const Carried& all, int64_t n) {
  std::vector<const void*> addresses;
  for (const auto& [tensor, what] : all) {
    const bool one_layer = tensor.dim() == 1 && tensor.numel() == n && tensor.is_contiguous();
    TORCH_CHECK_VALUE(one_layer, "smet: ", what, " has shape ", tensor.sizes(), " and strides ",
                      tensor.strides(), "; expected contiguous [", n, "], one per active weight");
    TORCH_CHECK_VALUE(tensor.device() == all.front().tensor.device(), "smet: ", what, " is on ",
                      tensor.device(), "; expected ", all.front().tensor.device());
    const int64_t bytes = tensor.element_size();
    TORCH_CHECK_TYPE(bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8, "smet: ", what, " has dtype ",
                     tensor.scalar_type(), "; expected elements of 1, 2, 4 or 8 bytes");
    TORCH_CHECK_VALUE(!tensor.is_inference() || c10::InferenceMode::is_enabled(), "smet: ", what,
                      " is an inference tensor; update it inside torch.inference_mode() or clone() it");
    if (n > 0) addresses.push_back(tensor.const_data_ptr());
  }
  std::sort(addresses.begin(), addresses.end());
  TORCH_CHECK_VALUE(std::adjacent_find(addresses.begin(), addresses.end()) == addresses.end(),
                    "smet: two of values and moments share memory; expected separate tensors");
}

}  // namespace

Carried check_carried(const at::Tensor& values, at::TensorList moments,
                      const std::optional<at::Tensor>& cohort, int64_t newborn_cohort) {
  Carried carried;
  if (cohort.has_value()) carried.push_back({*cohort, "cohort"});
  carried.push_back({values, "values"});
  for (const at::Tensor& moment : moments) carried.push_back({moment, "a moment or gradient"});
  check_tensors(carried, values.numel());
  TORCH_CHECK_TYPE(!cohort.has_value() || cohort->scalar_type() == at::kByte, "smet: cohort has dtype ",
                   cohort->scalar_type(), "; expected uint8");
  TORCH_CHECK_VALUE(newborn_cohort >= 1 && newborn_cohort < kCohortIds, "smet: newborn_cohort is ",
                    newborn_cohort, "; expected 1 to 255 (0 is the initial weights)");
  return carried;
}

void check_commit_scratch(const at::Tensor& scratch, const at::Tensor& values, at::TensorList moments) {
  const int64_t bytes = commit_scratch_bytes(values, moments);
  const auto address = reinterpret_cast<uintptr_t>(scratch.const_data_ptr());
  TORCH_CHECK_VALUE(
      scratch.scalar_type() == at::kByte && scratch.is_contiguous() && scratch.numel() >= bytes &&
          scratch.device() == values.device() && address % kScratchAlignment == 0,
      "smet: scratch is ", scratch.scalar_type(), " ", scratch.sizes(), " on ", scratch.device(),
      " at a multiple of ", address & (~address + 1), " bytes; expected at least ", bytes,
      " bytes of uint8 on ", values.device(), " at a multiple of ", kScratchAlignment);
}

at::Tensor update_summary(int64_t k, int64_t nan_count, const at::Tensor& died) {
  const at::Tensor result = at::empty({2 + kCohortIds}, at::TensorOptions(at::kLong));
  auto* out = result.mutable_data_ptr<int64_t>();
  out[0] = k;
  out[1] = nan_count;
  std::copy_n(died.const_data_ptr<int64_t>(), kCohortIds, out + 2);
  return result;
}

}  // namespace smet::ops
