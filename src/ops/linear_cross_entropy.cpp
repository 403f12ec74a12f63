// SPDX-License-Identifier: BSD-3-Clause
// Cross entropy of logits = input W^T + b, without the logits: classes are visited in slices of bounded size,
// forward for the log-sum-exp of every token, backward, computed again, for the gradients. A slice of the
// weight's gradient is complete when its classes are, so none is summed up over tokens in a copy of its own.
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "src/ops/below_autograd.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kSliceBytes = int64_t{32} << 20;
constexpr int64_t kFewestClasses = 64;  // of a slice: fewer make a matrix product slow

struct Problem {
  Tensor input, weight, target;  // input in the dtype of products
  OptionalTensor bias;
  at::ScalarType accumulate;  // of logits, and of gradients until they are complete
  Tensor counts;              // bool [tokens]: the target is not ignore_index
  int64_t classes, features, tokens, slice;
};

// A CPU multiplies bf16 in fp32 (where it has no unit for bf16, a product of bf16 is 8 times slower); a GPU
// multiplies in the dtype given.
at::ScalarType product_type(const Tensor& input) {
  return input.is_cpu() ? compute_type(input.scalar_type()) : input.scalar_type();
}

void check(const Tensor& input, const Tensor& weight, const Tensor& target, const OptionalTensor& bias) {
  constexpr const char* op = "smet::linear_cross_entropy: ";
  TORCH_CHECK_VALUE(weight.dim() == 2, op, "linear_weight has shape ", weight.sizes(),
                    "; expected [classes, features]");
  TORCH_CHECK_VALUE(input.dim() == 2 && input.size(1) == weight.size(1), op, "input has shape ",
                    input.sizes(), "; expected [tokens, ", weight.size(1), "]");
  TORCH_CHECK_VALUE(target.dim() == 1 && target.size(0) == input.size(0), op, "target has shape ",
                    target.sizes(), "; expected [", input.size(0), "], one class for each token");
  TORCH_CHECK_TYPE(target.scalar_type() == at::kLong, op, "target has dtype ", target.scalar_type(),
                   "; expected int64 class numbers");
  dtype_tag(input.scalar_type(), "input");
  TORCH_CHECK_TYPE(weight.scalar_type() == input.scalar_type(), op, "linear_weight has dtype ",
                   weight.scalar_type(), " and input ", input.scalar_type(),
                   "; expected the same. Convert one of them, or use torch.autocast");
  TORCH_CHECK_VALUE(weight.device() == input.device() && target.device() == input.device(), op,
                    "input is on ", input.device(), ", linear_weight on ", weight.device(), ", target on ",
                    target.device(), "; expected one device");
  if (!bias) return;
  TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == weight.size(0), op, "linear_bias has shape ",
                    bias->sizes(), "; expected [", weight.size(0), "]");
  TORCH_CHECK_TYPE(bias->scalar_type() == input.scalar_type(), op, "linear_bias has dtype ",
                   bias->scalar_type(), " and input ", input.scalar_type(), "; expected the same");
}

void check_classes(const Problem& problem) {
  const Tensor fits = (problem.target.ge(0).logical_and_(problem.target.lt(problem.classes)))
                          .logical_or_(problem.counts.logical_not())
                          .all();
  if (!fits.is_cpu()) return at::_assert_async(fits);  // no wait for the device
  TORCH_CHECK_INDEX(fits.item<bool>(), "smet::linear_cross_entropy: target holds a class outside [0, ",
                    problem.classes, ") that is not ignore_index");
}

Problem make_problem(const Tensor& input, const Tensor& weight, const Tensor& target,
                     const OptionalTensor& bias, int64_t ignore_index, int64_t slice) {
  check(input, weight, target, bias);
  Problem problem{.input = input.to(product_type(input)),
                  .weight = weight,
                  .target = target,
                  .bias = bias,
                  .accumulate = compute_type(input.scalar_type()),
                  .counts = target.ne(ignore_index),
                  .classes = weight.size(0),
                  .features = weight.size(1),
                  .tokens = input.size(0),
                  .slice = slice};
  TORCH_CHECK_VALUE(slice >= 0, "smet::linear_cross_entropy: slice is ", slice,
                    "; expected a number of classes, or 0 for as many as fit into 32 MB");
  if (slice == 0) {
    // Of each class: its logits, its weights widened, and their gradient.
    const auto element = static_cast<int64_t>(c10::elementSize(problem.accumulate));
    const int64_t fit = kSliceBytes / element / std::max<int64_t>(1, problem.tokens + 2 * problem.features);
    problem.slice = std::max(kFewestClasses, fit / kFewestClasses * kFewestClasses);
  }
  return problem;
}

// The classes [begin, end) of one slice, with what every pass needs of it.
struct Slice {
  Tensor weight;  // [classes, features] in the dtype of products
  Tensor logits;  // [tokens, classes] in `accumulate`
  Tensor inside;  // bool [tokens]: the target is here and counts
  Tensor place;   // int64 [tokens, 1]: the target's column where it is, else some column
};

template <typename F>
void for_each_slice(const Problem& problem, F&& body) {
  for (int64_t begin = 0; begin < problem.classes; begin += problem.slice) {
    const int64_t size = std::min(problem.slice, problem.classes - begin);
    Slice slice;
    slice.weight = problem.weight.narrow(0, begin, size).to(problem.input.scalar_type());
    slice.logits = at::mm(problem.input, slice.weight.t()).to(problem.accumulate);
    if (problem.bias) slice.logits.add_(problem.bias->narrow(0, begin, size));
    const Tensor column = problem.target.sub(begin);
    slice.inside = column.ge(0).logical_and_(column.lt(size)).logical_and_(problem.counts);
    slice.place = column.clamp(0, size - 1).unsqueeze(1);
    body(slice, begin, size);
  }
}

std::tuple<Tensor, Tensor> linear_cross_entropy(const Tensor& input, const Tensor& weight,
                                                const Tensor& target, const OptionalTensor& bias,
                                                int64_t ignore_index, int64_t slice_size) {
  const BelowAutograd guard;
  const Problem problem = make_problem(input, weight, target, bias, ignore_index, slice_size);
  check_classes(problem);
  // In fp64, so that the error does not grow with the number of slices.
  const auto options = input.options().dtype(at::kDouble);
  Tensor total = at::full({problem.tokens}, -std::numeric_limits<double>::infinity(), options);
  Tensor chosen = at::zeros({problem.tokens}, options);
  for_each_slice(problem, [&](Slice& slice, int64_t /*begin*/, int64_t /*size*/) {
    chosen.add_(at::where(slice.inside, slice.logits.gather(1, slice.place).squeeze(1), 0));
    Tensor peak = slice.logits.amax(1, true);
    peak.masked_fill_(peak.isinf(), 0);  // a slice of classes that are all excluded by -inf
    const Tensor sum = slice.logits.sub_(peak).exp_().sum(1).to(at::kDouble);
    total = at::logaddexp(total, sum.log_().add_(peak.squeeze(1)));
  });
  return {at::where(problem.counts, total.sub(chosen), 0).to(problem.accumulate), total};
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const Tensor& grad_losses, const Tensor& input, const Tensor& weight, const Tensor& target,
    const Tensor& logsumexp, const OptionalTensor& bias, int64_t ignore_index, int64_t slice_size,
    bool want_input, bool want_weight, bool want_bias) {
  const BelowAutograd guard;
  const Problem problem = make_problem(input, weight, target, bias, ignore_index, slice_size);
  const auto options = input.options().dtype(problem.accumulate);
  const Tensor grad = at::where(problem.counts, grad_losses.to(problem.accumulate), 0).unsqueeze(1);
  const Tensor shift = logsumexp.to(problem.accumulate).unsqueeze(1);
  Tensor grad_input = want_input ? at::zeros({problem.tokens, problem.features}, options) : Tensor();
  Tensor grad_weight = at::empty_like(want_weight ? weight : weight.narrow(0, 0, 0));
  Tensor grad_bias = at::empty({want_bias ? problem.classes : 0}, weight.options());
  for_each_slice(problem, [&](Slice& slice, int64_t begin, int64_t size) {
    Tensor& logits = slice.logits;
    logits.sub_(shift).exp_();  // softmax
    logits.scatter_add_(1, slice.place, slice.inside.unsqueeze(1).to(problem.accumulate).neg_());
    logits.mul_(grad);
    if (want_bias) grad_bias.narrow(0, begin, size).copy_(logits.sum(0));
    const Tensor factor = logits.to(problem.input.scalar_type());
    if (want_weight) grad_weight.narrow(0, begin, size).copy_(at::mm(factor.t(), problem.input));
    if (!want_input) return;
    if (factor.scalar_type() == problem.accumulate) {
      grad_input.addmm_(factor, slice.weight);
    } else {
      grad_input.add_(at::mm(factor, slice.weight));
    }
  });
  grad_input = want_input ? grad_input.to(input.scalar_type()) : at::empty({0}, input.options());
  return {std::move(grad_input), std::move(grad_weight), std::move(grad_bias)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smet, m) {
  m.def(
      "linear_cross_entropy(Tensor input, Tensor linear_weight, Tensor target, Tensor? linear_bias=None, "
      "int ignore_index=-100, int slice=0) -> (Tensor, Tensor)");
  m.def(
      "linear_cross_entropy_backward(Tensor grad_losses, Tensor input, Tensor linear_weight, Tensor target, "
      "Tensor logsumexp, Tensor? linear_bias, int ignore_index, int slice, bool want_input, bool "
      "want_weight, "
      "bool want_bias) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(smet, CompositeExplicitAutograd, m) {
  m.impl("linear_cross_entropy", &linear_cross_entropy);
  m.impl("linear_cross_entropy_backward", &linear_cross_entropy_backward);
}

}  // namespace smet::ops
