// SPDX-License-Identifier: BSD-3-Clause
// The operators on CUDA, as functions; register.cpp puts them on torch's CUDA dispatch key. Names, schemas,
// fakes and derivatives are those of src/ops.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <string_view>
#include <tuple>

namespace smet::ops::cuda {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor expand(const Tensor& values, const Tensor& mask, const Tensor& rank, int64_t cols);
Tensor gather(const Tensor& dense, const Tensor& mask, const Tensor& rank, int64_t n);

Tensor sparse_linear(const Tensor& input, const Tensor& values, const Tensor& mask, const Tensor& rank,
                     const OptionalTensor& bias, std::string_view algorithm);
Tensor sparse_linear_backward_input(const Tensor& grad_output, const Tensor& values, const Tensor& mask,
                                    const Tensor& rank, int64_t in_features, std::string_view algorithm);
Tensor sparse_linear_backward_values(const Tensor& grad_output, const Tensor& input, const Tensor& mask,
                                     const Tensor& rank, int64_t n, std::string_view algorithm);
std::tuple<Tensor, Tensor> sparse_linear_backward(const Tensor& grad_output, const Tensor& input,
                                                  const Tensor& values, const Tensor& mask,
                                                  const Tensor& rank, std::string_view algorithm);

void adamw_step_(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs,
                 at::TensorList exp_avg_sqs, at::TensorList exp_avg_scales, at::TensorList exp_avg_sq_scales,
                 at::TensorList master_lows, at::TensorList ranks, at::IntArrayRef cols,
                 at::TensorList cohorts, at::TensorList tables, at::ArrayRef<double> beta1,
                 at::ArrayRef<double> beta2, at::ArrayRef<double> eps, at::ArrayRef<double> l2,
                 const c10::List<bool>& maximize, at::IntArrayRef rounding_keys,
                 const c10::List<std::string>& names, bool check_finite, at::IntArrayRef moment_keys,
                 const OptionalTensor& found_inf, const OptionalTensor& grad_scale,
                 const OptionalTensor& keys);
std::tuple<Tensor, Tensor> cohort_table(at::TensorList steps, at::TensorList births, at::TensorList lrs,
                                        at::ArrayRef<double> lr, at::ArrayRef<double> lr_scale,
                                        at::ArrayRef<double> weight_decay, at::ArrayRef<double> beta1,
                                        at::ArrayRef<double> beta2, at::ArrayRef<double> warmup,
                                        at::ArrayRef<double> boost, at::ArrayRef<double> boost_tau,
                                        const c10::List<bool>& local_age, at::IntArrayRef seeds,
                                        at::IntArrayRef indices, const c10::List<std::string>& names);
void count_steps_(at::TensorList steps, const OptionalTensor& found_inf);

// Where there are fewer than k inactive positions, the last ones are -1: to know that here would mean to wait
// for the device in a backward pass. A topology update refuses them.
void grad_topk_(Tensor& positions, const Tensor& grad_output, const Tensor& input, const Tensor& mask);

Tensor mask_rank(const Tensor& mask, int64_t cols);
Tensor mask_hash(const Tensor& mask, int64_t cols);
Tensor draw_positions(const Tensor& mask, int64_t cols, int64_t k, int64_t key, int64_t stream,
                      int64_t update);

std::tuple<Tensor, Tensor> topology_plan(const Tensor& mask, const Tensor& rank, const Tensor& score,
                                         bool score_magnitude, int64_t cols, int64_t k,
                                         const OptionalTensor& grow_positions, int64_t key, int64_t update);
Tensor topology_commit_(const Tensor& values, const Tensor& mask, const Tensor& rank, at::TensorList moments,
                        const OptionalTensor& cohort, const Tensor& new_mask, int64_t cols,
                        int64_t newborn_cohort, const Tensor& scratch);
Tensor topology_update_(const Tensor& values, const Tensor& mask, const Tensor& rank, at::TensorList moments,
                        const OptionalTensor& cohort, const Tensor& score, bool score_magnitude, int64_t cols,
                        int64_t k, const OptionalTensor& grow_positions, int64_t newborn_cohort, int64_t key,
                        int64_t update);

// All of the above, on the dispatch key of `library`.
void register_operators(torch::Library& library);

}  // namespace smet::ops::cuda
