// SPDX-License-Identifier: BSD-3-Clause
// smet::topology_update_ = topology_plan + topology_commit_: prune the k lowest scores, grow k positions,
// re-lay out everything that is stored per weight. What can fail comes before the first write, so an
// exception changes nothing.
#include "src/ops/topology_update.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/mask_rank.h"
#include "kernels/topology_update.h"
#include "src/ops/carried.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops {
namespace {

using at::Tensor;
using at::TensorList;
using std::optional;

constexpr int64_t kCopyBytes = 1 << 20;  // one chunk of a copy

uint32_t* mask_words(const Tensor& mask) {
  return reinterpret_cast<uint32_t*>(mask.mutable_data_ptr<int32_t>());
}

// make_pattern trusts what the tensors hold; before weights are moved by them, it is checked.
kernels::Pattern checked_pattern(const Tensor& mask, const Tensor& rank, int64_t cols, int64_t n) {
  const kernels::Pattern pattern = make_pattern(mask, rank, cols, n);
  TORCH_CHECK_VALUE(!kernels::has_pad_bits(pattern.mask, pattern.rows, cols),
                    "smet: mask has a bit set beyond column ", cols);
  const Tensor derived = at::empty_like(rank);
  int64_t active = 0;
  check_status(kernels::cpu::mask_rank(executor(), {pattern.mask, derived.mutable_data_ptr<int32_t>(),
                                                    pattern.rows, cols, &active}),
               "mask_rank");
  TORCH_CHECK_VALUE(active == n, "smet: mask has ", active, " active positions, but there are ", n,
                    " values or scores");
  TORCH_CHECK_VALUE(
      std::memcmp(derived.const_data_ptr(), rank.const_data_ptr(), rank.nbytes()) == 0,
      "smet: rank does not belong to mask. Derive it with torch.ops.smet.mask_rank(mask, cols)");
  return pattern;
}

// Sets the bits of caller-given positions in `new_mask`, which already holds the survivors.
void grow_given(const Tensor& positions, const kernels::Pattern& old, int64_t k, uint32_t* new_mask) {
  TORCH_CHECK_TYPE(positions.scalar_type() == at::kLong, "smet: grow positions have dtype ",
                   positions.scalar_type(), "; expected int64");
  TORCH_CHECK_VALUE(positions.dim() == 1 && positions.numel() == k, "smet: grow positions have shape ",
                    positions.sizes(), "; expected [", k, "], one per pruned weight");
  TORCH_CHECK_VALUE(positions.device() == at::kCPU, "smet: grow positions are on ", positions.device(),
                    "; expected the device of the mask, cpu");
  const Tensor contiguous = positions.contiguous();
  const auto* position = contiguous.const_data_ptr<int64_t>();
  const int64_t words = kernels::words_per_row(old.cols);
  for (int64_t i = 0; i < k; ++i) {
    TORCH_CHECK_VALUE(position[i] >= 0 && position[i] < old.rows * old.cols, "smet: grow position ",
                      position[i], " is out of range; expected row * ", old.cols, " + column, 0 to ",
                      old.rows * old.cols - 1);
    const int64_t word = position[i] / old.cols * words + position[i] % old.cols / kernels::kWordColumns;
    const uint32_t bit = 1U << (position[i] % old.cols % kernels::kWordColumns);
    TORCH_CHECK_VALUE((old.mask[word] & bit) == 0, "smet: grow position ", position[i],
                      " is active; expected positions that are inactive before the update");
    TORCH_CHECK_VALUE((new_mask[word] & bit) == 0, "smet: grow position ", position[i],
                      " is given twice; expected unique positions");
    new_mask[word] |= bit;
  }
}

void grow_drawn(const kernels::Pattern& old, int64_t k, int64_t key, int64_t update, const Tensor& new_mask) {
  TORCH_CHECK_VALUE(update >= 0 && update <= std::numeric_limits<uint32_t>::max(), "smet: update is ", update,
                    "; expected 0 to 2^32 - 1");
  const Tensor chosen = at::empty_like(new_mask);
  const kernels::DrawPositionsArgs args{.mask = old.mask,
                                        .rows = old.rows,
                                        .cols = old.cols,
                                        .inactive = old.rows * old.cols - old.nnz,
                                        .k = k,
                                        .key = static_cast<uint64_t>(key),
                                        .stream = kernels::DrawStream::grow,
                                        .update = static_cast<uint32_t>(update),
                                        .chosen = mask_words(chosen)};
  check_status(kernels::cpu::draw_positions(executor(), args), "topology_plan");
  new_mask.bitwise_or_(chosen);
}

std::tuple<Tensor, Tensor> topology_plan_cpu(const Tensor& mask, const Tensor& rank, const Tensor& score,
                                             bool score_magnitude, int64_t cols, int64_t k,
                                             const optional<Tensor>& grow_positions, int64_t key,
                                             int64_t update) {
  TORCH_CHECK_VALUE(score.dim() == 1, "smet: score has shape ", score.sizes(),
                    "; expected [n], one per active weight");
  const auto dtype = dtype_tag(score.scalar_type(), "score");
  const kernels::Pattern old = checked_pattern(mask, rank, cols, score.numel());
  const int64_t inactive = old.rows * cols - old.nnz;
  TORCH_CHECK_VALUE(k >= 0 && k <= std::min(old.nnz, inactive), "smet: k is ", k, "; expected 0 to ",
                    std::min(old.nnz, inactive), " (", old.nnz, " active and ", inactive,
                    " inactive positions)");
  const Tensor contiguous = score.contiguous();
  const Tensor new_mask = at::empty_like(mask);
  const Tensor nan_count = at::zeros({}, mask.options().dtype(at::kLong));
  const kernels::SelectKeepArgs args{
      .pattern = old,
      .score = contiguous.const_data_ptr(),
      .score_dtype = dtype,
      .order = score_magnitude ? kernels::ScoreOrder::magnitude : kernels::ScoreOrder::signed_value,
      .k = k,
      .keep = mask_words(new_mask),
      .nan_count = nan_count.mutable_data_ptr<int64_t>()};
  check_status(kernels::cpu::select_keep(executor(), args), "topology_plan");
  if (grow_positions.has_value()) {
    grow_given(*grow_positions, old, k, mask_words(new_mask));
  } else {
    grow_drawn(old, k, key, update, new_mask);
  }
  return {new_mask, nan_count};
}

void copy_bytes(void* destination, const void* source, int64_t bytes) {
  kernels::for_chunks(executor(), (bytes + kCopyBytes - 1) / kCopyBytes, [&](int64_t chunk) {
    const int64_t begin = chunk * kCopyBytes;
    std::memcpy(static_cast<char*>(destination) + begin, static_cast<const char*>(source) + begin,
                static_cast<size_t>(std::min(kCopyBytes, bytes - begin)));
  });
}

Tensor topology_commit_cpu(const Tensor& values, const Tensor& mask, const Tensor& rank, TensorList moments,
                           const optional<Tensor>& cohort, const Tensor& new_mask, int64_t cols,
                           int64_t newborn_cohort, const Tensor& scratch) {
  const int64_t n = values.numel();
  const Carried carried = check_carried(values, moments, cohort, newborn_cohort);
  check_commit_scratch(scratch, values, moments);
  // Where memory is shared until the first write, this copies it, which may fail.
  for (const auto& [tensor, what] : carried) tensor.mutable_data_ptr();
  for (const Tensor* index : {&mask, &rank}) index->mutable_data_ptr();

  const kernels::Pattern old_pattern = make_pattern(mask, rank, cols, n);
  const Tensor new_rank = at::empty_like(rank);
  const kernels::Pattern new_pattern = make_pattern(new_mask, new_rank, cols, n);
  TORCH_CHECK_VALUE(new_pattern.rows == old_pattern.rows, "smet: new_mask has shape ", new_mask.sizes(),
                    "; expected that of mask, ", mask.sizes());
  int64_t active = 0;
  check_status(kernels::cpu::mask_rank(executor(), {new_pattern.mask, new_rank.mutable_data_ptr<int32_t>(),
                                                    new_pattern.rows, cols, &active}),
               "topology_commit_");
  TORCH_CHECK_VALUE(active == n, "smet: new_mask has ", active, " active positions; expected ", n);
  const Tensor died = at::zeros({kCohortIds}, at::TensorOptions(at::kLong));

  // What autograd saved of these tensors is stale from here on; a backward through it must notice.
  for (const auto& [tensor, what] : carried) tensor.unsafeGetTensorImpl()->bump_version();
  for (const Tensor* index : {&mask, &rank}) index->unsafeGetTensorImpl()->bump_version();

  constexpr double kZero = 0.0;  // eight zero bytes, the fill of every element size
  for (const auto& [tensor, what] : carried) {
    if (cohort.has_value() && tensor.is_same(*cohort)) {
      check_status(kernels::cpu::relayout_cohort(
                       executor(), {old_pattern, new_pattern, tensor.mutable_data_ptr<uint8_t>(),
                                    static_cast<uint8_t>(newborn_cohort), died.mutable_data_ptr<int64_t>(),
                                    scratch.mutable_data_ptr<uint8_t>()}),
                   "topology_commit_");
    } else {
      check_status(
          kernels::cpu::relayout(executor(), {old_pattern, new_pattern, tensor.mutable_data_ptr(),
                                              tensor.element_size(), &kZero, scratch.mutable_data_ptr()}),
          "topology_commit_");
    }
  }
  copy_bytes(mask.mutable_data_ptr(), new_mask.const_data_ptr(), static_cast<int64_t>(mask.nbytes()));
  copy_bytes(rank.mutable_data_ptr(), new_rank.const_data_ptr(), static_cast<int64_t>(rank.nbytes()));
  return died;
}

Tensor topology_update_cpu(const Tensor& values, const Tensor& mask, const Tensor& rank, TensorList moments,
                           const optional<Tensor>& cohort, const Tensor& score, bool score_magnitude,
                           int64_t cols, int64_t k, const optional<Tensor>& grow_positions,
                           int64_t newborn_cohort, int64_t key, int64_t update) {
  const auto [new_mask, nan_count] =
      topology_plan_cpu(mask, rank, score, score_magnitude, cols, k, grow_positions, key, update);
  const Tensor scratch =
      at::empty({commit_scratch_bytes(values, moments)}, values.options().dtype(at::kByte));
  const Tensor died =
      topology_commit_cpu(values, mask, rank, moments, cohort, new_mask, cols, newborn_cohort, scratch);
  return update_summary(k, *nan_count.const_data_ptr<int64_t>(), died);
}

}  // namespace

int64_t commit_scratch_bytes(const Tensor& values, TensorList moments) {
  int64_t widest = values.element_size();
  for (const Tensor& moment : moments) widest = std::max<int64_t>(widest, moment.element_size());
  return values.numel() * widest;
}

std::tuple<Tensor, Tensor> topology_plan(const Tensor& mask, const Tensor& rank, const Tensor& score,
                                         bool score_magnitude, int64_t cols, int64_t k,
                                         const optional<Tensor>& grow_positions, int64_t key,
                                         int64_t update) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("smet::topology_plan", "")
                             .typed<decltype(topology_plan_cpu)>();
  return op.call(mask, rank, score, score_magnitude, cols, k, grow_positions, key, update);
}

Tensor topology_commit_(const Tensor& values, const Tensor& mask, const Tensor& rank, TensorList moments,
                        const optional<Tensor>& cohort, const Tensor& new_mask, int64_t cols,
                        int64_t newborn_cohort, const Tensor& scratch) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("smet::topology_commit_", "")
                             .typed<decltype(topology_commit_cpu)>();
  return op.call(values, mask, rank, moments, cohort, new_mask, cols, newborn_cohort, scratch);
}

TORCH_LIBRARY_FRAGMENT(smet, m) {
  m.def(
      "topology_plan(Tensor mask, Tensor rank, Tensor score, bool score_magnitude, SymInt cols, int k, "
      "Tensor? grow_positions, int key, int update) -> (Tensor, Tensor)");
  m.def(
      "topology_commit_(Tensor(a!) values, Tensor(b!) mask, Tensor(c!) rank, Tensor(d!)[] moments, "
      "Tensor(e!)? cohort, Tensor new_mask, SymInt cols, int newborn_cohort, Tensor(f!) scratch) -> Tensor");
  m.def(
      "topology_update_(Tensor(a!) values, Tensor(b!) mask, Tensor(c!) rank, Tensor(d!)[] moments, "
      "Tensor(e!)? cohort, Tensor score, bool score_magnitude, SymInt cols, int k, Tensor? grow_positions, "
      "int newborn_cohort, int key, int update) -> Tensor");
}

TORCH_LIBRARY_IMPL(smet, CPU, m) {
  m.impl("topology_plan", &topology_plan_cpu);
  m.impl("topology_commit_", &topology_commit_cpu);
  m.impl("topology_update_", &topology_update_cpu);
}

}  // namespace smet::ops
