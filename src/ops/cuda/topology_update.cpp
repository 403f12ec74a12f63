// SPDX-License-Identifier: BSD-3-Clause
// topology_plan, topology_commit_ and topology_update_ on the device. What comes out is what the CPU's come
// to, bit for bit. The plan reads back what it checks; the commit reads one count.
#include "kernels/topology_update.h"

#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/remainder.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "src/ops/below_autograd.h"
#include "src/ops/carried.h"
#include "src/ops/cuda/draw_positions.h"
#include "src/ops/cuda/mask.h"
#include "src/ops/cuda/operators.h"
#include "src/ops/kernel_glue.h"
#include "src/ops/topology_update.h"

namespace smet::ops::cuda {
namespace {

constexpr const char* kPlan = "topology_plan";
constexpr const char* kCommit = "topology_commit_";

kernels::Pattern checked_pattern(const OnDevice& device, const Tensor& mask, const Tensor& rank, int64_t cols,
                                 int64_t n) {
  const kernels::Pattern pattern = make_pattern(mask, rank, cols, n);
  check_mask(device, mask, cols, kPlan);
  const Ranks derived = derive_ranks(device, mask, cols, kPlan);
  TORCH_CHECK_VALUE(derived.active == n, "smet: mask has ", derived.active,
                    " active positions, but there are ", n, " values or scores");
  TORCH_CHECK_VALUE(
      at::equal(derived.rank, rank),
      "smet: rank does not belong to mask. Derive it with torch.ops.smet.mask_rank(mask, cols)");
  return pattern;
}

// A mask of caller-given positions. Bits are added instead of or-ed: only where a position is given twice
// does a sum carry, and then fewer than k bits are set.
Tensor given_positions(const OnDevice& device, const Tensor& positions, const Tensor& mask, int64_t cols,
                       int64_t k) {
  TORCH_CHECK_TYPE(positions.scalar_type() == at::kLong, "smet: grow positions have dtype ",
                   positions.scalar_type(), "; expected int64");
  TORCH_CHECK_VALUE(positions.dim() == 1 && positions.numel() == k, "smet: grow positions have shape ",
                    positions.sizes(), "; expected [", k, "], one per pruned weight");
  TORCH_CHECK_VALUE(positions.device() == mask.device(), "smet: grow positions are on ", positions.device(),
                    "; expected the device of the mask, ", mask.device());
  Tensor grown = at::zeros_like(mask);
  if (k == 0) return grown;
  const int64_t all = mask.size(0) * cols;
  const auto first = positions.min().item<int64_t>();
  const auto last = positions.max().item<int64_t>();
  TORCH_CHECK_VALUE(first >= 0 && last < all, "smet: grow positions from ", first, " to ", last,
                    "; expected row * ", cols, " + column, 0 to ", all - 1);
  const Tensor column = at::remainder(positions, cols);
  const Tensor row = positions.sub(column).div_(cols, "floor");
  const Tensor bit_index = at::bitwise_and(column, kernels::kWordColumns - 1);
  const Tensor word = row.mul_(mask.size(1)).add_(column.sub(bit_index).div_(kernels::kWordColumns, "floor"));
  const Tensor bit = at::ones_like(bit_index).bitwise_left_shift_(bit_index).to(at::kInt);
  grown.view(-1).scatter_add_(0, word, bit);
  TORCH_CHECK_VALUE(derive_ranks(device, grown, cols, kPlan).active == k,
                    "smet: a grow position is given twice; expected unique positions");
  TORCH_CHECK_VALUE(
      !at::bitwise_and(grown, mask).any().item<bool>(),
      "smet: a grow position is active; expected positions that are inactive before the update");
  return grown;
}

}  // namespace

std::tuple<Tensor, Tensor> topology_plan(const Tensor& mask, const Tensor& rank, const Tensor& score,
                                         bool score_magnitude, int64_t cols, int64_t k,
                                         const OptionalTensor& grow_positions, int64_t key, int64_t update) {
  const BelowAutograd guard;
  const OnDevice device(mask);
  TORCH_CHECK_VALUE(score.dim() == 1, "smet: score has shape ", score.sizes(),
                    "; expected [n], one per active weight");
  const auto dtype = dtype_tag(score.scalar_type(), "score");
  const kernels::Pattern old = checked_pattern(device, mask, rank, cols, score.numel());
  const int64_t inactive = old.rows * cols - old.nnz;
  TORCH_CHECK_VALUE(k >= 0 && k <= std::min(old.nnz, inactive), "smet: k is ", k, "; expected 0 to ",
                    std::min(old.nnz, inactive), " (", old.nnz, " active and ", inactive,
                    " inactive positions)");
  const Tensor contiguous = score.contiguous();
  Tensor new_mask = at::empty_like(mask);
  Tensor nan_count = at::empty({}, mask.options().dtype(at::kLong));
  const Tensor scratch = device.scratch(kernels::cuda::select_keep_scratch());
  check_status(kernels::cuda::select_keep(device.stream(),
                                          {.pattern = old,
                                           .score = contiguous.const_data_ptr(),
                                           .score_dtype = dtype,
                                           .order = score_magnitude ? kernels::ScoreOrder::magnitude
                                                                    : kernels::ScoreOrder::signed_value,
                                           .k = k,
                                           .keep = mutable_words(new_mask),
                                           .nan_count = nan_count.mutable_data_ptr<int64_t>()},
                                          scratch.mutable_data_ptr()),
               kPlan);
  const Tensor grown = grow_positions.has_value() ? given_positions(device, *grow_positions, mask, cols, k)
                                                  : draw(device, mask,
                                                         {.mask = nullptr,
                                                          .rows = 0,
                                                          .cols = cols,
                                                          .inactive = inactive,
                                                          .k = k,
                                                          .key = static_cast<uint64_t>(key),
                                                          .stream = kernels::DrawStream::grow,
                                                          .update = checked_update(update, kPlan),
                                                          .chosen = nullptr},
                                                         kPlan);
  return {new_mask.bitwise_or_(grown), nan_count};
}

Tensor topology_commit_(const Tensor& values, const Tensor& mask, const Tensor& rank, at::TensorList moments,
                        const OptionalTensor& cohort, const Tensor& new_mask, int64_t cols,
                        int64_t newborn_cohort, const Tensor& scratch) {
  const BelowAutograd guard;
  const OnDevice device(values);
  const int64_t n = values.numel();
  const Carried carried = check_carried(values, moments, cohort, newborn_cohort);
  check_commit_scratch(scratch, values, moments);
  const kernels::Pattern old_pattern = make_pattern(mask, rank, cols, n);
  TORCH_CHECK_VALUE(new_mask.sizes() == mask.sizes(), "smet: new_mask has shape ", new_mask.sizes(),
                    "; expected that of mask, ", mask.sizes());
  const Ranks ranks = derive_ranks(device, new_mask, cols, kCommit);
  TORCH_CHECK_VALUE(ranks.active == n, "smet: new_mask has ", ranks.active, " active positions; expected ",
                    n);
  const kernels::Pattern new_pattern = make_pattern(new_mask, ranks.rank, cols, n);
  const Tensor died = at::zeros({kCohortIds}, mask.options().dtype(at::kLong));
  for (const auto& [tensor, what] : carried) tensor.unsafeGetTensorImpl()->bump_version();
  for (const Tensor* index : {&mask, &rank}) index->unsafeGetTensorImpl()->bump_version();

  // One tensor at a time through the caller's scratch, so that no memory is asked for after the first write.
  for (const auto& [tensor, what] : carried) {
    const bool is_cohort = cohort.has_value() && tensor.is_same(*cohort);
    const Tensor moved = scratch.narrow(0, 0, n * tensor.element_size());
    const kernels::cuda::RelayoutArray array = {tensor.const_data_ptr(), moved.mutable_data_ptr(),
                                                tensor.element_size(), 0};
    check_status(kernels::cuda::relayout(
                     device.stream(), {.old_pattern = old_pattern,
                                       .new_pattern = new_pattern,
                                       .arrays = &array,
                                       .count = is_cohort ? 0 : 1,
                                       .cohort = is_cohort ? tensor.const_data_ptr<uint8_t>() : nullptr,
                                       .new_cohort = is_cohort ? moved.mutable_data_ptr<uint8_t>() : nullptr,
                                       .newborn = static_cast<uint8_t>(newborn_cohort),
                                       .died = is_cohort ? died.mutable_data_ptr<int64_t>() : nullptr}),
                 kCommit);
    tensor.view(at::kByte).copy_(moved);
  }
  mask.copy_(new_mask);
  rank.copy_(ranks.rank);
  return died.cpu();
}

Tensor topology_update_(const Tensor& values, const Tensor& mask, const Tensor& rank, at::TensorList moments,
                        const OptionalTensor& cohort, const Tensor& score, bool score_magnitude, int64_t cols,
                        int64_t k, const OptionalTensor& grow_positions, int64_t newborn_cohort, int64_t key,
                        int64_t update) {
  const auto [new_mask, nan_count] =
      topology_plan(mask, rank, score, score_magnitude, cols, k, grow_positions, key, update);
  const OnDevice device(values);
  const Tensor scratch = device.scratch(commit_scratch_bytes(values, moments));
  const Tensor died =
      topology_commit_(values, mask, rank, moments, cohort, new_mask, cols, newborn_cohort, scratch);
  return update_summary(k, nan_count.item<int64_t>(), died);
}

}  // namespace smet::ops::cuda
