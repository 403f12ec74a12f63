// SPDX-License-Identifier: BSD-3-Clause
// Checks, any leading dimensions, choice of the algorithm; and the operators on the CPU.
#include "src/ops/sparse_linear.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "src/ops/below_autograd.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops {
namespace {

// Leading dimensions of an activation tensor and its 2-D view [tokens, features].
struct Activations {
  at::Tensor matrix;
  at::DimVector shape;  // of a result: the leading dimensions; a last one is appended
};

Activations flatten(const at::Tensor& tensor, int64_t features, const char* op, const char* argument) {
  TORCH_CHECK_VALUE(tensor.dim() >= 1 && tensor.size(-1) == features, "smet::", op, ": ", argument,
                    " has shape ", tensor.sizes(), "; expected a last dimension of ", features);
  at::DimVector leading(tensor.sizes().slice(0, static_cast<size_t>(tensor.dim() - 1)));
  int64_t tokens = 1;
  for (const int64_t size : leading) tokens *= size;
  at::Tensor matrix = tensor.reshape({tokens, features});
  // Any row stride is fine for a matrix product; overlapping or reversed features are not.
  if (matrix.stride(1) != 1 || matrix.stride(0) < features) matrix = matrix.contiguous();
  return {std::move(matrix), std::move(leading)};
}

void check_same(const at::Tensor& tensor, const at::Tensor& like, const char* op, const char* argument,
                const char* like_name) {
  dtype_tag(tensor.scalar_type(), argument);
  TORCH_CHECK_TYPE(tensor.scalar_type() == like.scalar_type(), "smet::", op, ": ", argument, " has dtype ",
                   tensor.scalar_type(), " and ", like_name, " ", like.scalar_type(),
                   "; expected the same. Convert one of them, or use torch.autocast");
  TORCH_CHECK_VALUE(tensor.device() == like.device(), "smet::", op, ": ", argument, " is on ",
                    tensor.device(), " and ", like_name, " on ", like.device(), "; expected the same device");
}

void check_values(const at::Tensor& values, const char* op) {
  TORCH_CHECK_VALUE(values.dim() == 1, "smet::", op, ": values has shape ", values.sizes(),
                    "; expected [n], one value per active weight");
}

void check_dimensions(const at::Tensor& input, const char* op) {
  TORCH_CHECK_VALUE(input.dim() >= 1, "smet::", op, ": input has no dimensions; expected [..., in_features]");
}

SparseProblem make_problem(const at::Tensor& activations, const at::Tensor& mask, const at::Tensor& rank,
                           int64_t cols, int64_t n) {
  TORCH_CHECK_VALUE(mask.device() == activations.device() && rank.device() == activations.device(),
                    "smet: mask is on ", mask.device(), ", rank on ", rank.device(), ", activations on ",
                    activations.device(), "; expected one device");
  return {.pattern = make_pattern(mask, rank, cols, n),
          .dtype = activations.scalar_type(),
          .device = activations.device().type(),
          .tokens = 0,
          .mask = mask,
          .rank = rank};
}

// The activations of a values gradient: dy and x of the same tokens.
struct Operands {
  Activations dy, x;
};

Operands flatten_both(const at::Tensor& grad_output, const at::Tensor& input, SparseProblem& problem,
                      const char* op) {
  Operands operands{flatten(grad_output, problem.pattern.rows, op, "grad_output"),
                    flatten(input, input.size(-1), op, "input")};
  TORCH_CHECK_VALUE(operands.dy.shape == operands.x.shape, "smet::", op, ": grad_output has shape ",
                    grad_output.sizes(), " and input ", input.sizes(),
                    "; expected the same leading dimensions");
  problem.tokens = operands.x.matrix.size(0);
  return operands;
}

}  // namespace

at::Tensor sparse_linear_with(const AlgorithmTable& table, const at::Tensor& input, const at::Tensor& values,
                              const at::Tensor& mask, const at::Tensor& rank,
                              const std::optional<at::Tensor>& bias, std::string_view algorithm) {
  constexpr const char* op = "sparse_linear";
  const BelowAutograd guard;
  check_values(values, op);
  check_same(input, values, op, "input", "values");
  check_dimensions(input, op);
  const int64_t in_features = input.size(-1);
  SparseProblem problem = make_problem(input, mask, rank, in_features, values.numel());
  const int64_t out_features = problem.pattern.rows;
  if (bias) {
    check_same(*bias, values, op, "bias", "values");
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == out_features, "smet::", op, ": bias has shape ",
                      bias->sizes(), "; expected [", out_features, "]");
  }
  auto [x, shape] = flatten(input, in_features, op, "input");
  problem.tokens = x.size(0);
  const Algorithm& chosen = choose_algorithm(table, algorithm, problem);
  shape.push_back(out_features);
  if (problem.tokens * out_features == 0) return at::empty(shape, input.options());
  return chosen.forward(problem, x, values.contiguous(), bias).view(shape);
}

at::Tensor sparse_linear_backward_input_with(const AlgorithmTable& table, const at::Tensor& grad_output,
                                             const at::Tensor& values, const at::Tensor& mask,
                                             const at::Tensor& rank, int64_t in_features,
                                             std::string_view algorithm) {
  constexpr const char* op = "sparse_linear_backward_input";
  const BelowAutograd guard;
  check_values(values, op);
  check_same(grad_output, values, op, "grad_output", "values");
  SparseProblem problem = make_problem(grad_output, mask, rank, in_features, values.numel());
  auto [dy, shape] = flatten(grad_output, problem.pattern.rows, op, "grad_output");
  problem.tokens = dy.size(0);
  const Algorithm& chosen = choose_algorithm(table, algorithm, problem);
  shape.push_back(in_features);
  if (problem.tokens * in_features == 0) return at::empty(shape, grad_output.options());
  return chosen.backward(problem, dy, {}, values.contiguous(), true, false).input.view(shape);
}

at::Tensor sparse_linear_backward_values_with(const AlgorithmTable& table, const at::Tensor& grad_output,
                                              const at::Tensor& input, const at::Tensor& mask,
                                              const at::Tensor& rank, int64_t n, std::string_view algorithm) {
  constexpr const char* op = "sparse_linear_backward_values";
  const BelowAutograd guard;
  check_same(grad_output, input, op, "grad_output", "input");
  check_dimensions(input, op);
  SparseProblem problem = make_problem(input, mask, rank, input.size(-1), n);
  const Operands operands = flatten_both(grad_output, input, problem, op);
  const Algorithm& chosen = choose_algorithm(table, algorithm, problem);
  if (n == 0 || problem.tokens == 0) return at::zeros({n}, input.options());
  return chosen.backward(problem, operands.dy.matrix, operands.x.matrix, {}, false, true).values;
}

std::tuple<at::Tensor, at::Tensor> sparse_linear_backward_with(
    const AlgorithmTable& table, const at::Tensor& grad_output, const at::Tensor& input,
    const at::Tensor& values, const at::Tensor& mask, const at::Tensor& rank, std::string_view algorithm) {
  constexpr const char* op = "sparse_linear_backward";
  const BelowAutograd guard;
  check_values(values, op);
  check_same(grad_output, values, op, "grad_output", "values");
  check_same(input, values, op, "input", "values");
  check_dimensions(input, op);
  SparseProblem problem = make_problem(input, mask, rank, input.size(-1), values.numel());
  const Operands operands = flatten_both(grad_output, input, problem, op);
  const Algorithm& chosen = choose_algorithm(table, algorithm, problem);
  if (values.numel() == 0 || problem.tokens == 0) {
    return {at::zeros(input.sizes(), input.options()), at::zeros_like(values)};
  }
  const Gradients grads =
      chosen.backward(problem, operands.dy.matrix, operands.x.matrix, values.contiguous(), true, true);
  return {grads.input.view(input.sizes()), grads.values};
}

namespace {

const AlgorithmTable& table() {
  return algorithm_table(c10::DeviceType::CPU);
}

at::Tensor sparse_linear(const at::Tensor& input, const at::Tensor& values, const at::Tensor& mask,
                         const at::Tensor& rank, const std::optional<at::Tensor>& bias,
                         std::string_view algorithm) {
  return sparse_linear_with(table(), input, values, mask, rank, bias, algorithm);
}

at::Tensor sparse_linear_backward_input(const at::Tensor& grad_output, const at::Tensor& values,
                                        const at::Tensor& mask, const at::Tensor& rank, int64_t in_features,
                                        std::string_view algorithm) {
  return sparse_linear_backward_input_with(table(), grad_output, values, mask, rank, in_features, algorithm);
}

at::Tensor sparse_linear_backward_values(const at::Tensor& grad_output, const at::Tensor& input,
                                         const at::Tensor& mask, const at::Tensor& rank, int64_t n,
                                         std::string_view algorithm) {
  return sparse_linear_backward_values_with(table(), grad_output, input, mask, rank, n, algorithm);
}

std::tuple<at::Tensor, at::Tensor> sparse_linear_backward(const at::Tensor& grad_output,
                                                          const at::Tensor& input, const at::Tensor& values,
                                                          const at::Tensor& mask, const at::Tensor& rank,
                                                          std::string_view algorithm) {
  return sparse_linear_backward_with(table(), grad_output, input, values, mask, rank, algorithm);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smet, m) {
  m.def(
      "sparse_linear(Tensor input, Tensor values, Tensor mask, Tensor rank, Tensor? bias=None, "
      "str algorithm=\"auto\") -> Tensor");
  m.def(
      "sparse_linear_backward_input(Tensor grad_output, Tensor values, Tensor mask, Tensor rank, "
      "SymInt in_features, str algorithm=\"auto\") -> Tensor");
  m.def(
      "sparse_linear_backward(Tensor grad_output, Tensor input, Tensor values, Tensor mask, Tensor rank, "
      "str algorithm=\"auto\") -> (Tensor, Tensor)");
  m.def(
      "sparse_linear_backward_values(Tensor grad_output, Tensor input, Tensor mask, Tensor rank, SymInt n, "
      "str algorithm=\"auto\") -> Tensor");
}

TORCH_LIBRARY_IMPL(smet, CPU, m) {
  m.impl("sparse_linear", &sparse_linear);
  m.impl("sparse_linear_backward", &sparse_linear_backward);
  m.impl("sparse_linear_backward_input", &sparse_linear_backward_input);
  m.impl("sparse_linear_backward_values", &sparse_linear_backward_values);
}

}  // namespace smet::ops
