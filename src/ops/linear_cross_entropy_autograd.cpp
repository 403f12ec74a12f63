// SPDX-License-Identifier: BSD-3-Clause
// linear_cross_entropy: its first derivative, no second one, and what autocast does with it.
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

namespace smet::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor> call(const Tensor& input, const Tensor& weight, const Tensor& target,
                                const OptionalTensor& bias, int64_t ignore_index, int64_t slice) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("smet::linear_cross_entropy", "")
                             .typed<decltype(call)>();
  return op.call(input, weight, target, bias, ignore_index, slice);
}

std::tuple<Tensor, Tensor, Tensor> call_backward(const Tensor& grad_losses, const Tensor& input,
                                                 const Tensor& weight, const Tensor& target,
                                                 const Tensor& logsumexp, const OptionalTensor& bias,
                                                 int64_t ignore_index, int64_t slice, bool want_input,
                                                 bool want_weight, bool want_bias) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("smet::linear_cross_entropy_backward", "")
                             .typed<decltype(call_backward)>();
  return op.call(grad_losses, input, weight, target, logsumexp, bias, ignore_index, slice, want_input,
                 want_weight, want_bias);
}

// dlosses[t] / dlogits[t, c] = softmax(logits[t])[c] - (c == target[t])
struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static variable_list forward(AutogradContext* ctx, const Tensor& input, const Tensor& weight,
                               const Tensor& target, const OptionalTensor& bias, int64_t ignore_index,
                               int64_t slice) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto [losses, logsumexp] = call(input, weight, target, bias, ignore_index, slice);
    ctx->save_for_backward({input, weight, target, logsumexp, bias.value_or(Tensor())});
    ctx->saved_data["ignore_index"] = ignore_index;
    ctx->saved_data["slice"] = slice;
    ctx->mark_non_differentiable({logsumexp});
    return {losses, logsumexp};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}, {}, {}, {}, {}};
    const auto saved = ctx->get_saved_variables();
    const OptionalTensor bias = saved[4].defined() ? OptionalTensor(saved[4]) : std::nullopt;
    // needs_input_grad counts the tensors that were given: there is a fourth only when there is a bias.
    const bool wanted[] = {ctx->needs_input_grad(0), ctx->needs_input_grad(1),
                           bias.has_value() && ctx->needs_input_grad(3)};
    auto [to_input, to_weight, to_bias] = call_backward(
        grads[0], saved[0], saved[1], saved[2], saved[3], bias, ctx->saved_data["ignore_index"].toInt(),
        ctx->saved_data["slice"].toInt(), wanted[0], wanted[1], wanted[2]);
    return {wanted[0] ? to_input : Tensor(),
            wanted[1] ? to_weight : Tensor(),
            Tensor(),
            wanted[2] ? to_bias : Tensor(),
            Tensor(),
            Tensor()};
  }
};

struct Backward : torch::autograd::Function<Backward> {
  static variable_list forward(AutogradContext* /*ctx*/, const Tensor& grad_losses, const Tensor& input,
                               const Tensor& weight, const Tensor& target, const Tensor& logsumexp,
                               const OptionalTensor& bias, int64_t ignore_index, int64_t slice,
                               bool want_input, bool want_weight, bool want_bias) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [to_input, to_weight, to_bias] =
        call_backward(grad_losses, input, weight, target, logsumexp, bias, ignore_index, slice, want_input,
                      want_weight, want_bias);
    return {to_input, to_weight, to_bias};
  }

  static variable_list backward(AutogradContext* /*ctx*/, const variable_list& /*grads*/) {
    TORCH_CHECK_NOT_IMPLEMENTED(false,
                                "smet::linear_cross_entropy has no second derivative; use "
                                "torch.nn.functional.linear and cross_entropy");
  }
};

std::tuple<Tensor, Tensor> linear_cross_entropy(const Tensor& input, const Tensor& weight,
                                                const Tensor& target, const OptionalTensor& bias,
                                                int64_t ignore_index, int64_t slice) {
  const auto out = LinearCrossEntropy::apply(input, weight, target, bias, ignore_index, slice);
  return {out[0], out[1]};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_losses, const Tensor& input,
                                            const Tensor& weight, const Tensor& target,
                                            const Tensor& logsumexp, const OptionalTensor& bias,
                                            int64_t ignore_index, int64_t slice, bool want_input,
                                            bool want_weight, bool want_bias) {
  const auto out = Backward::apply(grad_losses, input, weight, target, logsumexp, bias, ignore_index, slice,
                                   want_input, want_weight, want_bias);
  return {out[0], out[1], out[2]};
}

// As torch.nn.functional.linear: input, weight and bias in the autocast dtype.
template <c10::DispatchKey key, c10::DeviceType device>
std::tuple<Tensor, Tensor> autocast(const Tensor& input, const Tensor& weight, const Tensor& target,
                                    const OptionalTensor& bias, int64_t ignore_index, int64_t slice) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto dtype = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const Tensor& tensor) { return at::autocast::cached_cast(dtype, tensor, device); };
  return call(cast(input), cast(weight), target, bias ? OptionalTensor(cast(*bias)) : std::nullopt,
              ignore_index, slice);
}

}  // namespace

TORCH_LIBRARY_IMPL(smet, Autograd, m) {
  m.impl("linear_cross_entropy", &linear_cross_entropy);
  m.impl("linear_cross_entropy_backward", &backward);
}

TORCH_LIBRARY_IMPL(smet, AutocastCPU, m) {
  m.impl("linear_cross_entropy", &autocast<c10::DispatchKey::AutocastCPU, c10::DeviceType::CPU>);
}

TORCH_LIBRARY_IMPL(smet, AutocastCUDA, m) {
  m.impl("linear_cross_entropy", &autocast<c10::DispatchKey::AutocastCUDA, c10::DeviceType::CUDA>);
}

}  // namespace smet::ops
