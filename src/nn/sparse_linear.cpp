// SPDX-License-Identifier: BSD-3-Clause
#include "smet/sparse_linear.h"

#include <torch/serialize/archive.h>
#include <torch/types.h>

#include <algorithm>
#include <utility>

#include "kernels/mask_rank.h"
#include "smet/distribution.h"
#include "smet/values_registry.h"
#include "src/nn/initial_values.h"
#include "src/nn/packing.h"

namespace smet {
namespace {

template <typename Signature>
c10::TypedOperatorHandle<Signature> handle(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor mask_rank(const at::Tensor& mask, int64_t cols) {
  static const auto op = handle<at::Tensor(const at::Tensor&, c10::SymInt)>("smet::mask_rank");
  return op.call(mask, cols);
}

at::Tensor gather(const at::Tensor& dense, const at::Tensor& mask, const at::Tensor& rank, int64_t n) {
  static const auto op =
      handle<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, c10::SymInt)>(
          "smet::gather");
  return op.call(dense, mask, rank, n);
}

void grad_topk_(at::Tensor positions, const at::Tensor& grad_output, const at::Tensor& input,
                const at::Tensor& mask) {
  static const auto op =
      handle<void(at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&)>("smet::grad_topk_");
  op.call(positions, grad_output, input, mask);
}

bool scales_by_fan_in(const SparseLinearOptions& options) {
  const auto& scale = options.init_scale();
  TORCH_CHECK_VALUE(!scale || *scale == "fan_in", "smet: layer '", options.name(), "': init_scale is '",
                    scale.value_or(""), "'; expected 'fan_in' or nothing");
  return scale.has_value();
}

InitialValues initial_values(const SparseLinearOptions& options) {
  return {options.seed(), options.name(), options.init_std(), scales_by_fan_in(options)};
}

// The positions that from_dense was asked for; undefined: drawn by (seed, name).
at::Tensor chosen_mask(const at::Tensor& weight, SparseLinearOptions& options, const at::Tensor& mask,
                       const std::string& select) {
  TORCH_CHECK_VALUE(select == "random" || select == "magnitude", "smet: layer '", options.name(),
                    "': select is '", select, "'; expected 'random' or 'magnitude'");
  if (mask.defined()) {
    TORCH_CHECK_VALUE(mask.scalar_type() == torch::kInt || mask.sizes() == weight.sizes(), "smet: layer '",
                      options.name(), "': mask has shape ", mask.sizes(), "; expected ", weight.sizes());
    const at::Tensor packed = mask.scalar_type() == torch::kInt ? mask : pack(mask.to(torch::kBool));
    options.density(static_cast<double>(active_positions(packed)) /
                    static_cast<double>(std::max<int64_t>(1, weight.numel())));
    return packed;
  }
  if (select == "random") return {};
  return magnitude_mask(weight, active_count(options.density(), weight.size(0), weight.size(1)));
}

}  // namespace

SparseLinearImpl::SparseLinearImpl(SparseLinearOptions given) : options(std::move(given)) {
  SparseLinearImpl::reset();
}

void SparseLinearImpl::remember() const {
  register_values(values, options.out_features(), options.in_features(), options.name(), rank);
}

void SparseLinearImpl::reset() {
  TORCH_CHECK_TYPE(c10::isFloatingType(options.dtype()), "smet: layer '", options.name(), "': dtype is ",
                   options.dtype(), "; expected a floating one");
  const int64_t out = options.out_features(), in = options.in_features();
  const int64_t n = active_count(options.density(), out, in);
  const auto floating = torch::dtype(options.dtype()).device(options.device());
  const auto integers = torch::dtype(torch::kInt).device(options.device());
  values = register_parameter("values", torch::empty({n}, floating));
  mask = register_buffer("mask", torch::zeros({out, kernels::words_per_row(in)}, integers));
  rank = register_buffer("rank", torch::zeros({out, kernels::segments_per_row(in)}, integers));
  bias = register_parameter("bias", options.bias() ? torch::empty({out}, floating) : at::Tensor(),
                            /*requires_grad=*/options.bias());
  grow_candidates = at::Tensor();
  remember();
  reset_parameters();
}

void SparseLinearImpl::reset_parameters() {
  if (values.is_meta()) return;
  const torch::NoGradGuard no_grad;
  set_mask(draw_initial_mask(options.out_features(), options.in_features(), nnz(), options.seed(),
                             options.name()));
  const InitialValues how = initial_values(options);
  fill_initial_values(values, mask, rank, options.in_features(), how);
  if (bias.defined()) fill_initial_bias(bias, options.in_features(), how);
}

double SparseLinearImpl::density() const {
  return static_cast<double>(nnz()) /
         static_cast<double>(std::max<int64_t>(1, options.out_features() * options.in_features()));
}

at::Tensor SparseLinearImpl::forward(const at::Tensor& input) {
  TORCH_CHECK_VALUE(input.dim() >= 1 && input.size(-1) == options.in_features(), "smet: layer '",
                    options.name(), "': input has shape ", input.sizes(), "; expected a last dimension of ",
                    options.in_features());
  static const auto op =
      handle<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                        const std::optional<at::Tensor>&, std::string_view)>("smet::sparse_linear");
  const auto given_bias = bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt;
  at::Tensor output = op.call(input, values, mask, rank, given_bias, options.algorithm());
  if (grow_candidates.defined() && output.requires_grad()) {
    output.register_hook(
        [x = input.detach(), candidates = grow_candidates, positions = mask](const at::Tensor& grad) {
          const torch::NoGradGuard no_grad;
          grad_topk_(candidates, grad, x.to(grad.scalar_type()), positions);
        });
  }
  return output;
}

at::Tensor SparseLinearImpl::dense_weight() const {
  static const auto op =
      handle<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, c10::SymInt)>(
          "smet::expand");
  return op.call(values, mask, rank, options.in_features());
}

void SparseLinearImpl::check_mask(const at::Tensor& new_mask, const char* what) const {
  const int64_t words = kernels::words_per_row(options.in_features());
  TORCH_CHECK_VALUE(new_mask.scalar_type() == torch::kInt && new_mask.dim() == 2 &&
                        new_mask.size(0) == options.out_features() && new_mask.size(1) == words,
                    "smet: layer '", options.name(), "': ", what, " is ", new_mask.scalar_type(), " ",
                    new_mask.sizes(), "; expected int32 [", options.out_features(), ", ", words, "]");
  const int64_t active = active_positions(new_mask);
  TORCH_CHECK_VALUE(active == nnz(), "smet: layer '", options.name(), "': ", what, " has ", active,
                    " active positions; this layer has ", nnz(), ". Build it with the same density");
}

void SparseLinearImpl::set_mask(const at::Tensor& new_mask) {
  check_mask(new_mask, "mask");
  const at::Tensor new_rank = mask_rank(new_mask.contiguous(), options.in_features());
  mask.copy_(new_mask);
  rank.copy_(new_rank);
}

std::shared_ptr<SparseLinearImpl> SparseLinearImpl::from_dense(const torch::nn::LinearImpl& source,
                                                               SparseLinearOptions options,
                                                               const at::Tensor& mask,
                                                               const std::string& select) {
  const torch::NoGradGuard no_grad;
  const at::Tensor& weight = source.weight;
  options.in_features(weight.size(1)).out_features(weight.size(0)).bias(source.bias.defined());
  options.device(weight.device()).dtype(weight.scalar_type());
  const at::Tensor packed = chosen_mask(weight, options, mask, select);
  auto layer = std::make_shared<SparseLinearImpl>(std::move(options));
  if (packed.defined()) layer->set_mask(packed);
  if (!layer->options.init_std()) {
    at::Tensor values = gather(weight.detach(), layer->mask, layer->rank, layer->nnz());
    if (scales_by_fan_in(layer->options) && layer->nnz() > 0) values = values / std::sqrt(layer->density());
    layer->values.copy_(values);
  } else if (packed.defined()) {
    fill_initial_values(layer->values, layer->mask, layer->rank, layer->options.in_features(),
                        initial_values(layer->options));
  }
  layer->values.requires_grad_(weight.requires_grad());
  if (source.bias.defined()) {
    layer->bias.copy_(source.bias);
    layer->bias.requires_grad_(source.bias.requires_grad());
  }
  return layer;
}

torch::nn::Linear SparseLinearImpl::to_dense() const {
  const torch::NoGradGuard no_grad;
  torch::nn::Linear linear(
      torch::nn::LinearOptions(options.in_features(), options.out_features()).bias(bias.defined()));
  linear->to(values.device(), values.scalar_type());
  linear->weight.copy_(dense_weight());
  if (bias.defined()) linear->bias.copy_(bias);
  return linear;
}

void SparseLinearImpl::to(at::Device device, at::ScalarType dtype, bool non_blocking) {
  to(device, non_blocking);
  to(dtype, non_blocking);
}

void SparseLinearImpl::to(at::ScalarType dtype, bool non_blocking) {
  TORCH_CHECK_TYPE(c10::isFloatingType(dtype), "smet: layer '", options.name(), "': cannot convert to ",
                   dtype, "; expected a floating dtype");
  for (at::Tensor& parameter : parameters()) {
    parameter.set_data(parameter.data().to(dtype, non_blocking));
    if (parameter.grad().defined()) parameter.mutable_grad() = parameter.grad().to(dtype, non_blocking);
  }
  options.dtype(dtype);
  remember();
}

void SparseLinearImpl::to(at::Device device, bool non_blocking) {
  Module::to(device, non_blocking);
  options.device(device);
  remember();
}

void SparseLinearImpl::save(torch::serialize::OutputArchive& archive) const {
  archive.write("values", values);
  if (bias.defined()) archive.write("bias", bias);
  archive.write("mask", mask, /*is_buffer=*/true);
}

void SparseLinearImpl::load(torch::serialize::InputArchive& archive) {
  const torch::NoGradGuard no_grad;
  at::Tensor new_values, new_bias, new_mask;
  archive.read("values", new_values);
  archive.read("mask", new_mask, /*is_buffer=*/true);
  if (bias.defined()) archive.read("bias", new_bias);
  TORCH_CHECK_VALUE(new_values.sizes() == values.sizes(), "smet: layer '", options.name(),
                    "': values in the archive have shape ", new_values.sizes(), "; expected ",
                    values.sizes());
  TORCH_CHECK_VALUE(!bias.defined() || new_bias.sizes() == bias.sizes(), "smet: layer '", options.name(),
                    "': bias in the archive has shape ", new_bias.sizes(), "; expected ", bias.sizes());
  set_mask(new_mask);  // the last check; nothing was changed before it
  values.copy_(new_values);
  if (bias.defined()) bias.copy_(new_bias);
}

void SparseLinearImpl::pretty_print(std::ostream& stream) const {
  stream << std::boolalpha << "smet::SparseLinear(in_features=" << options.in_features()
         << ", out_features=" << options.out_features() << ", bias=" << bias.defined()
         << ", density=" << density() << ")";
}

}  // namespace smet
