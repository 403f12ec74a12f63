// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/adamw_step_checks.h"

#include <ATen/MemoryOverlap.h>

#include <algorithm>
#include <vector>

#include "src/ops/kernel_glue.h"

namespace smet::ops {
namespace {

using at::Tensor;
using at::TensorList;

constexpr int64_t kTableColumns = sizeof(kernels::CohortRow) / sizeof(double);
constexpr int64_t kCohortIds = 256;  // what a uint8 can say

void check_lengths(const AdamWArguments& args) {
  const auto check = [&](size_t got, const char* list) {
    TORCH_CHECK_VALUE(got == args.params.size(), "smet::adamw_step_: ", list, " has ", got,
                      " entries; expected one per parameter, ", args.params.size());
  };
  check(args.grads.size(), "grads");
  check(args.exp_avgs.size(), "exp_avgs");
  check(args.exp_avg_sqs.size(), "exp_avg_sqs");
  if (!args.exp_avg_scales.empty()) check(args.exp_avg_scales.size(), "exp_avg_scales");
  if (!args.exp_avg_sq_scales.empty()) check(args.exp_avg_sq_scales.size(), "exp_avg_sq_scales");
  if (!args.master_lows.empty()) check(args.master_lows.size(), "master_lows");
  if (!args.ranks.empty()) check(args.ranks.size(), "ranks");
  if (!args.cols.empty()) check(args.cols.size(), "cols");
  check(args.cohorts.size(), "cohorts");
  check(args.tables.size(), "tables");
  check(args.beta1.size(), "beta1");
  check(args.beta2.size(), "beta2");
  check(args.eps.size(), "eps");
  check(args.l2.size(), "l2");
  check(args.maximize.size(), "maximize");
  check(args.names.size(), "names");
  if (!args.rounding_keys.empty()) check(args.rounding_keys.size(), "rounding_keys");
  if (!args.moment_keys.empty()) check(args.moment_keys.size(), "moment_keys");
}

// A tensor of the parameter's shape and device, in `dtype`.
void check_like(const Tensor& tensor, const Tensor& param, at::ScalarType dtype, const char* what,
                const std::string& name) {
  TORCH_CHECK_VALUE(tensor.sizes() == param.sizes(), "smet::adamw_step_: the ", what, " of '", name,
                    "' has shape ", tensor.sizes(), "; expected that of the parameter, ", param.sizes());
  TORCH_CHECK_VALUE(tensor.device() == param.device(), "smet::adamw_step_: the ", what, " of '", name,
                    "' is on ", tensor.device(), ", the parameter on ", param.device(),
                    "; build the optimizer after moving the model");
  TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, "smet::adamw_step_: the ", what, " of '", name,
                   "' has dtype ", tensor.scalar_type(), "; expected ", dtype, " for a ", param.scalar_type(),
                   " parameter");
}

void check_moments(const AdamWArguments& args, size_t i, const std::string& name) {
  const Tensor& param = args.params[i];
  const bool block8 = args.block8(i);
  const at::ScalarType moment = block8            ? at::kChar
                                : args.compact(i) ? at::kBFloat16
                                                  : compute_type(param.scalar_type());
  check_like(args.exp_avgs[i], param, moment, "exp_avg", name);
  check_like(args.exp_avg_sqs[i], param, block8 ? at::kByte : moment, "exp_avg_sq", name);
  if (!args.compact(i)) return;
  TORCH_CHECK_VALUE(!args.moment_keys.empty(), "smet::adamw_step_: the moments of '", name, "' are ",
                    block8 ? "8-bit codes" : "BFloat16",
                    " and moment_keys is empty; expected a key per parameter and step, "
                    "since they are rounded at random");
  TORCH_CHECK_TYPE(!block8 || param.scalar_type() != at::kDouble, "smet::adamw_step_: the moments of '", name,
                   "' are 8-bit codes, the parameter is Double; expected Double moments");
  // A block is a stretch of memory.
  TORCH_CHECK_VALUE(!block8 || (args.exp_avgs[i].is_contiguous() && args.exp_avg_sqs[i].is_contiguous()),
                    "smet::adamw_step_: the 8-bit moments of '", name, "' are not contiguous");
  compact_moments(args, i, name);
}

void check_master(const AdamWArguments& args, size_t i, const std::string& name) {
  if (!args.master(i)) return;
  const Tensor& param = args.params[i];
  TORCH_CHECK_TYPE(param.scalar_type() == at::kBFloat16, "smet::adamw_step_: '", name, "' is ",
                   param.scalar_type(), " and has a master_low; expected BFloat16, or an empty tensor");
  check_like(args.master_lows[i], param, at::kShort, "master_low", name);
  TORCH_CHECK_VALUE(args.rounding_keys.empty() || args.rounding_keys[i] == 0, "smet::adamw_step_: '", name,
                    "' has a master_low, of which nothing is rounded, and a rounding key; expected 0");
}

void check_tensor(const AdamWArguments& args, size_t i, const std::string& name) {
  const Tensor& param = args.params[i];
  dtype_tag(param.scalar_type(), "a parameter");
  check_like(args.grads[i], param, param.scalar_type(), "gradient", name);
  check_moments(args, i, name);
  check_master(args, i, name);

  const Tensor& table = args.tables[i];
  const c10::Device place = args.keys.has_value() ? param.device() : c10::Device(at::kCPU);
  TORCH_CHECK_TYPE(table.scalar_type() == at::kDouble && table.device() == place,
                   "smet::adamw_step_: the table of '", name, "' is ", table.scalar_type(), " on ",
                   table.device(), "; expected float64 on ", place);
  const Tensor& cohort = args.cohorts[i];
  const bool one_cohort = cohort.numel() == 0;  // every element is of row 0
  TORCH_CHECK_VALUE(table.dim() == 2 && table.size(1) == kTableColumns && table.is_contiguous() &&
                        table.size(0) >= (one_cohort ? 1 : kCohortIds),
                    "smet::adamw_step_: the table of '", name, "' has shape ", table.sizes(),
                    "; expected contiguous rows (decay, step_size, bc2_sqrt), ",
                    one_cohort ? "one" : "256, one per id a uint8 can hold");
  if (one_cohort) return;
  TORCH_CHECK_TYPE(cohort.scalar_type() == at::kByte, "smet::adamw_step_: the cohort of '", name,
                   "' has dtype ", cohort.scalar_type(), "; expected uint8");
  TORCH_CHECK_VALUE(cohort.dim() == 1 && cohort.numel() == param.numel() && cohort.is_contiguous() &&
                        cohort.device() == param.device() && param.dim() == 1,
                    "smet::adamw_step_: the cohort of '", name, "' has shape ", cohort.sizes(), " on ",
                    cohort.device(), "; expected one contiguous entry per value, ", param.sizes(), " on ",
                    param.device());
}

// A GradScaler's scalar, read where the parameters are.
void check_scalar(const std::optional<Tensor>& scalar, TensorList params, const char* what) {
  if (!scalar.has_value() || params.empty()) return;
  TORCH_CHECK_TYPE(scalar->scalar_type() == at::kFloat, "smet::adamw_step_: ", what, " has dtype ",
                   scalar->scalar_type(), "; expected float32");
  TORCH_CHECK_VALUE(scalar->numel() == 1 && scalar->device() == params[0].device(),
                    "smet::adamw_step_: ", what, " has shape ", scalar->sizes(), " on ", scalar->device(),
                    "; expected one element on the parameters' device, ", params[0].device());
}

// Two written tensors that share memory would be updated twice, in an undefined order.
void check_disjoint(const AdamWArguments& args) {
  struct Range {
    const char* begin;
    const char* end;
    size_t index;
  };
  std::vector<Range> ranges;
  ranges.reserve(3 * args.params.size());
  for (size_t i = 0; i < args.params.size(); ++i) {
    std::vector<const Tensor*> written{&args.params[i], &args.exp_avgs[i], &args.exp_avg_sqs[i]};
    if (args.master(i)) written.push_back(&args.master_lows[i]);
    if (args.block8(i)) written.insert(written.end(), {&args.exp_avg_scales[i], &args.exp_avg_sq_scales[i]});
    for (const Tensor* tensor : written) {
      const auto overlap = at::has_internal_overlap(*tensor);
      TORCH_CHECK_VALUE(overlap != at::MemOverlap::Yes, "smet::adamw_step_: elements of '",
                        std::string(args.names[i]), "' share memory (an expanded tensor?); clone() it first");
      if (tensor->numel() == 0 || !tensor->is_non_overlapping_and_dense()) continue;
      const auto* begin = static_cast<const char*>(tensor->const_data_ptr());
      ranges.push_back({begin, begin + tensor->nbytes(), i});
    }
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (size_t k = 1; k < ranges.size(); ++k) {
    TORCH_CHECK_VALUE(ranges[k - 1].end <= ranges[k].begin, "smet::adamw_step_: the parameters or state of '",
                      std::string(args.names[ranges[k - 1].index]), "' and '",
                      std::string(args.names[ranges[k].index]),
                      "' share memory; pass every parameter once and do not share optimizer state");
  }
}

}  // namespace

// The storage of parameter i's moments, of which 8-bit ones are checked here.
kernels::CompactMoments compact_moments(const AdamWArguments& args, size_t i, const std::string& name) {
  kernels::CompactMoments moments{.format = kernels::MomentFormat::bf16,
                                  .key = static_cast<uint64_t>(args.moment_keys[i]),
                                  .rank = nullptr,
                                  .rows = 0,
                                  .cols = 0,
                                  .block_segments = 0,
                                  .scale = nullptr,
                                  .scale_sq = nullptr};
  if (!args.block8(i)) return moments;
  moments.format = kernels::MomentFormat::block8;
  const Tensor& param = args.params[i];
  TORCH_CHECK_VALUE(
      !args.exp_avg_scales.empty() && !args.exp_avg_sq_scales.empty() && !args.ranks.empty() &&
          !args.cols.empty(),
      "smet::adamw_step_: the moments of '", name,
      "' are 8-bit codes; expected exp_avg_scales, exp_avg_sq_scales, ranks and cols, one per parameter");
  const Tensor& rank = args.ranks[i];
  moments.cols = args.cols[i];
  if (rank.numel() > 0 || param.numel() == 0) {
    TORCH_CHECK_VALUE(rank.scalar_type() == at::kInt && rank.dim() == 2 && rank.is_contiguous() &&
                          rank.size(1) == kernels::segments_per_row(moments.cols) &&
                          rank.device() == param.device() && param.dim() == 1,
                      "smet::adamw_step_: the rank of '", name, "' is ", rank.scalar_type(), " ",
                      rank.sizes(), " on ", rank.device(), "; expected contiguous int32 [rows, ",
                      kernels::segments_per_row(moments.cols), "] on ", param.device(), " for ", moments.cols,
                      " columns");
    moments.rank = rank.const_data_ptr<int32_t>();
    moments.rows = rank.size(0);
  } else {
    TORCH_CHECK_VALUE(moments.cols > 0 && param.numel() % moments.cols == 0, "smet::adamw_step_: cols of '",
                      name, "' is ", moments.cols, "; expected a divisor of its ", param.numel(),
                      " elements, or a rank");
    moments.rows = param.numel() / moments.cols;
  }
  moments.block_segments = kernels::block8_segments(moments.rows, moments.cols, param.numel());
  const int64_t blocks = kernels::blocks_per_row(moments.cols, moments.block_segments);
  for (const Tensor* scale : {&args.exp_avg_scales[i], &args.exp_avg_sq_scales[i]}) {
    TORCH_CHECK_VALUE(scale->scalar_type() == at::kFloat && scale->is_contiguous() &&
                          scale->sizes() == at::IntArrayRef({moments.rows, blocks}) &&
                          scale->device() == param.device(),
                      "smet::adamw_step_: a scale of '", name, "' is ", scale->scalar_type(), " ",
                      scale->sizes(), " on ", scale->device(), "; expected contiguous float32 [",
                      moments.rows, ", ", blocks, "] on ", param.device());
  }
  moments.scale = args.exp_avg_scales[i].mutable_data_ptr<float>();
  moments.scale_sq = args.exp_avg_sq_scales[i].mutable_data_ptr<float>();
  return moments;
}

void check_keys(const std::optional<Tensor>& keys, TensorList params) {
  if (!keys.has_value() || params.empty()) return;
  const std::vector<int64_t> shape = {static_cast<int64_t>(params.size()), 2};
  TORCH_CHECK_VALUE(keys->is_contiguous() && keys->sizes() == shape && keys->scalar_type() == at::kLong &&
                        keys->device() == params[0].device(),
                    "smet::adamw_step_: keys are ", keys->toString(), " ", keys->sizes(),
                    "; expected contiguous int64 ", at::IntArrayRef(shape), " on ", params[0].device());
}

void GradScaling::check(TensorList params) const {
  check_scalar(found_inf, params, "found_inf");
  check_scalar(grad_scale, params, "grad_scale");
}

void check_arguments(const AdamWArguments& args) {
  check_lengths(args);
  check_keys(args.keys, args.params);
  for (size_t i = 0; i < args.params.size(); ++i) check_tensor(args, i, args.names[i]);
  check_disjoint(args);
}

}  // namespace smet::ops
