// SPDX-License-Identifier: BSD-3-Clause
#include "smet/linear_cross_entropy.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <tuple>

namespace smet {

torch::Tensor linear_cross_entropy(const torch::Tensor& input, const torch::Tensor& linear_weight,
                                   const torch::Tensor& target, const LinearCrossEntropyOptions& options) {
  using torch::Tensor;
  const std::string& reduction = options.reduction();
  TORCH_CHECK_VALUE(reduction == "mean" || reduction == "sum" || reduction == "none",
                    "smet: linear_cross_entropy: reduction is \"", reduction,
                    "\"; expected \"mean\", \"sum\" or \"none\"");
  TORCH_CHECK_VALUE(input.dim() >= 1 && target.sizes() == input.sizes().slice(0, input.dim() - 1),
                    "smet: linear_cross_entropy: target has shape ", target.sizes(), " and input ",
                    input.sizes(), "; expected input's leading dimensions");
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("smet::linear_cross_entropy", "")
          .typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                            const std::optional<Tensor>&, int64_t, int64_t)>();
  const auto bias = options.linear_bias().defined() ? std::optional(options.linear_bias()) : std::nullopt;
  const Tensor losses = std::get<0>(op.call(input.reshape({-1, input.size(-1)}), linear_weight,
                                            target.reshape({-1}), bias, options.ignore_index(), 0));
  if (reduction == "none") return losses.view(target.sizes());
  const Tensor sum = losses.sum();
  return reduction == "sum" ? sum : sum / target.ne(options.ignore_index()).sum();
}

}  // namespace smet
