// SPDX-License-Identifier: BSD-3-Clause
// smet::adamw_step_: one AdamW step of every tensor of a model in one call (kernels/adamw_step.h has the
// formula, adamw_compact.h that of bfloat16 and of 8-bit moments). Everything is checked before the first
// write.
#include "src/ops/adamw_step.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <c10/util/strides.h>
#include <torch/library.h>

#include <string>
#include <utility>
#include <vector>

#include "src/ops/adamw_step_checks.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops {
namespace {

using at::Tensor;
using at::TensorList;

// The kernel walks raw memory, so the tensors of a parameter need one layout: the parameter's own when it has
// no gaps, else that of empty_like. Nearly always they have it already; a gradient with other strides is
// copied, and so is a parameter with gaps (a slice), which is copied back. Blocks of 8-bit moments are
// stretches of a contiguous parameter.
class Layout {
 public:
  Layout(const Tensor& param, bool contiguous) {
    if (contiguous) {
      const auto strides = c10::contiguous_strides(param.sizes());
      strides_.assign(strides.begin(), strides.end());
    } else {
      strides_ = (param.is_non_overlapping_and_dense() ? param : at::empty_like(param)).strides().vec();
    }
  }

  Tensor bring(const Tensor& tensor) const {
    if (tensor.numel() <= 1 || tensor.strides() == at::IntArrayRef(strides_)) return tensor;
    Tensor copy = at::empty_strided(tensor.sizes(), strides_, tensor.options());
    copy.copy_(tensor);
    return copy;
  }

 private:
  std::vector<int64_t> strides_;
};

// The tensors as the kernel sees them, and which of them are copies.
struct Prepared {
  std::vector<kernels::AdamWTensor> tensors;          // with moments of the compute type
  std::vector<kernels::AdamWTensor> compact_tensors;  // with bf16 or 8-bit moments
  std::vector<kernels::CompactMoments> moments;       // of compact_tensors
  std::vector<kernels::Buffer> grads;
  std::vector<Tensor> alive;
  std::vector<std::pair<Tensor, Tensor>> copy_back;  // (destination, copy)

  const void* read(const Layout& layout, const Tensor& tensor) {
    alive.push_back(layout.bring(tensor));
    return alive.back().const_data_ptr();
  }
  void* write(const Layout& layout, const Tensor& tensor) {
    alive.push_back(layout.bring(tensor));
    if (!alive.back().is_same(tensor)) copy_back.emplace_back(tensor, alive.back());
    return alive.back().mutable_data_ptr();
  }
};

const kernels::StepKeys* keys_of(const Tensor& keys) {
  return reinterpret_cast<const kernels::StepKeys*>(keys.const_data_ptr<int64_t>());
}

Prepared prepare(const AdamWArguments& args) {
  Prepared prepared;
  const size_t count = args.params.size();
  prepared.tensors.reserve(count);
  prepared.grads.reserve(count);
  prepared.alive.reserve(5 * count);
  for (size_t i = 0; i < count; ++i) {
    const Tensor& param = args.params[i];
    const Layout layout(param, args.block8(i));
    const auto dtype = dtype_tag(param.scalar_type(), "a parameter");
    const Tensor& cohort = args.cohorts[i];
    const int64_t key = args.rounding_keys.empty() ? 0 : args.rounding_keys[i];
    auto& tensors = args.compact(i) ? prepared.compact_tensors : prepared.tensors;
    tensors.push_back({
        .param = prepared.write(layout, param),
        .grad = prepared.read(layout, args.grads[i]),
        .exp_avg = prepared.write(layout, args.exp_avgs[i]),
        .exp_avg_sq = prepared.write(layout, args.exp_avg_sqs[i]),
        .cohort = cohort.numel() == 0 ? nullptr : cohort.const_data_ptr<uint8_t>(),
        .size = param.numel(),
        .param_dtype = dtype,
        .grad_dtype = dtype,
        .cohorts = reinterpret_cast<const kernels::CohortRow*>(args.tables[i].const_data_ptr<double>()),
        .cohort_rows = args.tables[i].size(0),
        .beta1 = args.beta1[i],
        .beta2 = args.beta2[i],
        .eps = args.eps[i],
        .l2 = args.l2[i],
        .maximize = args.maximize[i],
        .stochastic_rounding = key != 0 && dtype == kernels::DType::bf16,
        .rounding_key = static_cast<uint64_t>(key),
        .device_keys = args.keys.has_value() ? keys_of(*args.keys) + i : nullptr,
        .master_low =
            args.master(i) ? static_cast<int16_t*>(prepared.write(layout, args.master_lows[i])) : nullptr,
    });
    prepared.grads.push_back({tensors.back().grad, param.numel(), dtype});
    if (args.compact(i)) prepared.moments.push_back(compact_moments(args, i, args.names[i]));
  }
  return prepared;
}

}  // namespace

void adamw_step_with(const AdamWKernels& kernels, const AdamWArguments& args) {
  check_arguments(args);
  const Prepared prepared = prepare(args);
  const auto count = static_cast<int64_t>(args.params.size());
  if (args.check_finite) {
    const int64_t bad = kernels.first_nonfinite(prepared.grads.data(), count);
    TORCH_CHECK(bad < 0, "smet::adamw_step_: the gradient of '",
                std::string(args.names[static_cast<size_t>(bad)]),
                "' holds NaN or infinity; nothing was changed. Find where the loss left the finite range, or "
                "skip this step (a GradScaler does)");
  }
  if (!prepared.compact_tensors.empty()) {  // first: it looks at ranks before it writes
    check_status(kernels.compact({prepared.compact_tensors.data(), prepared.moments.data(),
                                  static_cast<int64_t>(prepared.moments.size())}),
                 "adamw_step_");
  }
  if (!prepared.tensors.empty()) {
    check_status(kernels.step({prepared.tensors.data(), static_cast<int64_t>(prepared.tensors.size())}),
                 "adamw_step_");
  }
  for (const auto& [destination, copy] : prepared.copy_back) destination.copy_(copy);
  // What autograd saved of these tensors is now stale; without this a backward through it would not notice.
  for (const Tensor& param : args.params) param.unsafeGetTensorImpl()->bump_version();
}

namespace {

constexpr int64_t kOperationsPerWeight = 16;

void adamw_step_cpu(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs,
                    TensorList exp_avg_scales, TensorList exp_avg_sq_scales, TensorList master_lows,
                    TensorList ranks, at::IntArrayRef cols, TensorList cohorts, TensorList tables,
                    at::ArrayRef<double> beta1, at::ArrayRef<double> beta2, at::ArrayRef<double> eps,
                    at::ArrayRef<double> l2, const c10::List<bool>& maximize, at::IntArrayRef rounding_keys,
                    const c10::List<std::string>& names, bool check_finite, at::IntArrayRef moment_keys,
                    const std::optional<Tensor>& found_inf, const std::optional<Tensor>& grad_scale,
                    const std::optional<Tensor>& keys) {
  GradScaling{found_inf, grad_scale}.check(params);
  if (found_inf.has_value() && found_inf->item<float>() != 0) return;
  check_keys(keys, params);
  std::vector<int64_t> rounds = rounding_keys.vec(), of_moments = moment_keys.vec();  // by value
  for (size_t i = 0; keys.has_value() && i < params.size(); ++i) {
    if (i < rounds.size() && rounds[i] != 0) rounds[i] = static_cast<int64_t>(keys_of(*keys)[i].rounding);
    if (i < of_moments.size()) of_moments[i] = static_cast<int64_t>(keys_of(*keys)[i].moments);
  }
  std::vector<Tensor> unscaled;  // in their own dtype: exact for the powers of two that a GradScaler uses
  if (grad_scale.has_value()) {
    for (const Tensor& grad : grads) unscaled.push_back(grad.div(*grad_scale));
    grads = unscaled;
  }
  int64_t weights = 0;
  for (const Tensor& param : params) weights += param.numel();
  const kernels::Executor threads = executor(kOperationsPerWeight * weights);
  const auto first_nonfinite = [&](const kernels::Buffer* grads_of, int64_t count) {
    return kernels::cpu::first_nonfinite(threads, grads_of, count);
  };
  const auto step = [&](const kernels::AdamWStepArgs& args) {
    return kernels::cpu::adamw_step(threads, args);
  };
  const auto compact = [&](const kernels::AdamWCompactArgs& args) {
    return kernels::cpu::adamw_compact(threads, args);
  };
  adamw_step_with({first_nonfinite, step, compact},
                  {params,       grads,      exp_avgs, exp_avg_sqs, exp_avg_scales, exp_avg_sq_scales,
                   master_lows,  ranks,      cols,     cohorts,     tables,         beta1,
                   beta2,        eps,        l2,       maximize,    rounds,         names,
                   check_finite, of_moments, keys});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smet, m) {
  m.def(
      "adamw_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] exp_avg_scales, Tensor(e!)[] exp_avg_sq_scales, Tensor(f!)[] master_lows, "
      "Tensor[] ranks, int[] cols, Tensor[] cohorts, Tensor[] tables, float[] beta1, float[] beta2, "
      "float[] eps, float[] l2, bool[] maximize, int[] rounding_keys, str[] names, bool check_finite=True, "
      "int[] moment_keys=[], Tensor? found_inf=None, Tensor? grad_scale=None, Tensor? keys=None) -> ()");
}

TORCH_LIBRARY_IMPL(smet, CPU, m) {
  m.impl("adamw_step_", &adamw_step_cpu);
}

}  // namespace smet::ops
