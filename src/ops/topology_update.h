// SPDX-License-Identifier: BSD-3-Clause
// The operators of a topology update as C++ functions; each goes through torch's dispatcher.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace smet::ops {

// smet::topology_plan, the half that can fail: which entries stay and which grow. Changes nothing.
// score [n] orders the active weights (kernels/topology_update.h); k of them go. grow_positions int64 [k]
// (flat positions row * cols + col, inactive, unique), or nullopt for keyed draws of (key, grow, update).
// Returns (new mask like `mask`, int64 scalar: number of NaN scores).
std::tuple<at::Tensor, at::Tensor> topology_plan(const at::Tensor& mask, const at::Tensor& rank,
                                                 const at::Tensor& score, bool score_magnitude, int64_t cols,
                                                 int64_t k, const std::optional<at::Tensor>& grow_positions,
                                                 int64_t key, int64_t update);

// smet::topology_commit_, the half that writes: moves values, moments and cohort to the new mask, all in
// place. `moments` are any [n] tensors that travel with the values (newborns 0). scratch: uint8, at least n
// times the widest element; with it allocated by the caller nothing here can run out of memory after the
// first write. Returns int64 [256]: pruned weights of each cohort id (zeros without cohort).
at::Tensor topology_commit_(const at::Tensor& values, const at::Tensor& mask, const at::Tensor& rank,
                            at::TensorList moments, const std::optional<at::Tensor>& cohort,
                            const at::Tensor& new_mask, int64_t cols, int64_t newborn_cohort,
                            const at::Tensor& scratch);

// Bytes of scratch that topology_commit_ asks for.
int64_t commit_scratch_bytes(const at::Tensor& values, at::TensorList moments);

}  // namespace smet::ops
