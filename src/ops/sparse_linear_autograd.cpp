// SPDX-License-Identifier: BSD-3-Clause
// Derivatives of the operators that are linear in each argument. They are closed under differentiation: every
// derivative is one of the same operators, so derivatives of any order work.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <string>
#include <tuple>

namespace smet::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

template <typename Signature>
c10::TypedOperatorHandle<Signature> handle(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

Tensor call_linear(const Tensor& input, const Tensor& values, const Tensor& mask, const Tensor& rank,
                   const OptionalTensor& bias, std::string_view algorithm) {
  static const auto op = handle<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                       const OptionalTensor&, std::string_view)>("smet::sparse_linear");
  return op.call(input, values, mask, rank, bias, algorithm);
}

Tensor call_backward_input(const Tensor& grad_output, const Tensor& values, const Tensor& mask,
                           const Tensor& rank, c10::SymInt in_features, std::string_view algorithm) {
  static const auto op = handle<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                       c10::SymInt, std::string_view)>("smet::sparse_linear_backward_input");
  return op.call(grad_output, values, mask, rank, std::move(in_features), algorithm);
}

Tensor call_backward_values(const Tensor& grad_output, const Tensor& input, const Tensor& mask,
                            const Tensor& rank, c10::SymInt n, std::string_view algorithm) {
  static const auto op = handle<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                       c10::SymInt, std::string_view)>("smet::sparse_linear_backward_values");
  return op.call(grad_output, input, mask, rank, std::move(n), algorithm);
}

std::tuple<Tensor, Tensor> call_backward(const Tensor& grad_output, const Tensor& input, const Tensor& values,
                                         const Tensor& mask, const Tensor& rank, std::string_view algorithm) {
  static const auto op =
      handle<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                        const Tensor&, std::string_view)>("smet::sparse_linear_backward");
  return op.call(grad_output, input, values, mask, rank, algorithm);
}

Tensor call_expand(const Tensor& values, const Tensor& mask, const Tensor& rank, c10::SymInt cols) {
  static const auto op =
      handle<Tensor(const Tensor&, const Tensor&, const Tensor&, c10::SymInt)>("smet::expand");
  return op.call(values, mask, rank, std::move(cols));
}

Tensor call_gather(const Tensor& dense, const Tensor& mask, const Tensor& rank, c10::SymInt n) {
  static const auto op =
      handle<Tensor(const Tensor&, const Tensor&, const Tensor&, c10::SymInt)>("smet::gather");
  return op.call(dense, mask, rank, std::move(n));
}

void save(AutogradContext* ctx, const Tensor& first, const Tensor& second, const Tensor& mask,
          const Tensor& rank, std::string_view algorithm) {
  ctx->save_for_backward({first, second, mask, rank});
  ctx->saved_data["algorithm"] = std::string(algorithm);
}

std::string algorithm_of(AutogradContext* ctx) {
  return ctx->saved_data["algorithm"].toStringRef();
}

// y = x W^T + b
struct SparseLinear : torch::autograd::Function<SparseLinear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& values, const Tensor& mask,
                        const Tensor& rank, const OptionalTensor& bias, std::string_view algorithm) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    save(ctx, input, values, mask, rank, algorithm);
    ctx->saved_data["has_bias"] = bias.has_value();
    return call_linear(input, values, mask, rank, bias, algorithm);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &input = saved[0], &values = saved[1], &mask = saved[2], &rank = saved[3];
    const Tensor& grad = grads[0];
    const std::string algorithm = algorithm_of(ctx);
    Tensor grad_input, grad_values, grad_bias;
    if (ctx->needs_input_grad(0) && ctx->needs_input_grad(1)) {
      std::tie(grad_input, grad_values) = call_backward(grad, input, values, mask, rank, algorithm);
    } else if (ctx->needs_input_grad(0)) {
      grad_input = call_backward_input(grad, values, mask, rank, input.sym_size(-1), algorithm);
    } else if (ctx->needs_input_grad(1)) {
      grad_values = call_backward_values(grad, input, mask, rank, values.sym_numel(), algorithm);
    }
    // needs_input_grad counts the tensors that were given: there is a fifth only when there is a bias.
    if (ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(4)) {
      std::vector<int64_t> leading;
      for (int64_t dim = 0; dim + 1 < grad.dim(); ++dim) leading.push_back(dim);
      grad_bias = leading.empty() ? grad : grad.sum(leading);
    }
    return {grad_input, grad_values, Tensor(), Tensor(), grad_bias, Tensor()};
  }
};

// dx = dy W
struct BackwardInput : torch::autograd::Function<BackwardInput> {
  static Tensor forward(AutogradContext* ctx, const Tensor& grad_output, const Tensor& values,
                        const Tensor& mask, const Tensor& rank, c10::SymInt in_features,
                        std::string_view algorithm) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    save(ctx, grad_output, values, mask, rank, algorithm);
    return call_backward_input(grad_output, values, mask, rank, std::move(in_features), algorithm);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &grad_output = saved[0], &values = saved[1], &mask = saved[2], &rank = saved[3];
    const std::string algorithm = algorithm_of(ctx);
    Tensor to_grad_output, to_values;
    if (ctx->needs_input_grad(0)) {
      to_grad_output = call_linear(grads[0], values, mask, rank, std::nullopt, algorithm);
    }
    if (ctx->needs_input_grad(1)) {
      to_values = call_backward_values(grad_output, grads[0], mask, rank, values.sym_numel(), algorithm);
    }
    return {to_grad_output, to_values, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// dvalues = gather(dy^T x)
struct BackwardValues : torch::autograd::Function<BackwardValues> {
  static Tensor forward(AutogradContext* ctx, const Tensor& grad_output, const Tensor& input,
                        const Tensor& mask, const Tensor& rank, c10::SymInt n, std::string_view algorithm) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    save(ctx, grad_output, input, mask, rank, algorithm);
    return call_backward_values(grad_output, input, mask, rank, std::move(n), algorithm);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &grad_output = saved[0], &input = saved[1], &mask = saved[2], &rank = saved[3];
    const std::string algorithm = algorithm_of(ctx);
    Tensor to_grad_output, to_input;
    if (ctx->needs_input_grad(0)) {
      to_grad_output = call_linear(input, grads[0], mask, rank, std::nullopt, algorithm);
    }
    if (ctx->needs_input_grad(1)) {
      to_input = call_backward_input(grad_output, grads[0], mask, rank, input.sym_size(-1), algorithm);
    }
    return {to_grad_output, to_input, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

struct Expand : torch::autograd::Function<Expand> {
  static Tensor forward(AutogradContext* ctx, const Tensor& values, const Tensor& mask, const Tensor& rank,
                        c10::SymInt cols) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({mask, rank});
    ctx->saved_data["n"] = values.sym_numel();
    return call_expand(values, mask, rank, std::move(cols));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {call_gather(grads[0], saved[0], saved[1], ctx->saved_data["n"].toSymInt()), Tensor(), Tensor(),
            Tensor()};
  }
};

struct Gather : torch::autograd::Function<Gather> {
  static Tensor forward(AutogradContext* ctx, const Tensor& dense, const Tensor& mask, const Tensor& rank,
                        c10::SymInt n) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({mask, rank});
    ctx->saved_data["cols"] = dense.sym_size(-1);
    return call_gather(dense, mask, rank, std::move(n));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {call_expand(grads[0], saved[0], saved[1], ctx->saved_data["cols"].toSymInt()), Tensor(), Tensor(),
            Tensor()};
  }
};

Tensor sparse_linear(const Tensor& input, const Tensor& values, const Tensor& mask, const Tensor& rank,
                     const OptionalTensor& bias, std::string_view algorithm) {
  return SparseLinear::apply(input, values, mask, rank, bias, algorithm);
}
Tensor backward_input(const Tensor& grad_output, const Tensor& values, const Tensor& mask, const Tensor& rank,
                      c10::SymInt in_features, std::string_view algorithm) {
  return BackwardInput::apply(grad_output, values, mask, rank, std::move(in_features), algorithm);
}
Tensor backward_values(const Tensor& grad_output, const Tensor& input, const Tensor& mask, const Tensor& rank,
                       c10::SymInt n, std::string_view algorithm) {
  return BackwardValues::apply(grad_output, input, mask, rank, std::move(n), algorithm);
}
// Both gradients share work; where they are differentiated again, each is on its own.
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& input, const Tensor& values,
                                    const Tensor& mask, const Tensor& rank, std::string_view algorithm) {
  const bool differentiated = at::GradMode::is_enabled() && (grad_output.requires_grad() ||
                                                             input.requires_grad() || values.requires_grad());
  if (differentiated) {
    return {call_backward_input(grad_output, values, mask, rank, input.sym_size(-1), algorithm),
            call_backward_values(grad_output, input, mask, rank, values.sym_numel(), algorithm)};
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(grad_output, input, values, mask, rank, algorithm);
}
Tensor expand(const Tensor& values, const Tensor& mask, const Tensor& rank, c10::SymInt cols) {
  return Expand::apply(values, mask, rank, std::move(cols));
}
Tensor gather(const Tensor& dense, const Tensor& mask, const Tensor& rank, c10::SymInt n) {
  return Gather::apply(dense, mask, rank, std::move(n));
}

}  // namespace

TORCH_LIBRARY_IMPL(smet, Autograd, m) {
  m.impl("sparse_linear", &sparse_linear);
  m.impl("sparse_linear_backward", &backward);
  m.impl("sparse_linear_backward_input", &backward_input);
  m.impl("sparse_linear_backward_values", &backward_values);
  m.impl("expand", &expand);
  m.impl("gather", &gather);
}

}  // namespace smet::ops
