// SPDX-License-Identifier: BSD-3-Clause
#include "src/topology/layer_checks.h"

#include <ATen/ops/lt.h>

#include "src/ops/kernel_glue.h"

namespace smet {
namespace {

void check_per_weight(const at::Tensor& tensor, const LayerView& layer, const char* what) {
  TORCH_CHECK_VALUE(tensor.sizes() == layer.values.sizes() && tensor.is_contiguous() &&
                        tensor.device() == layer.values.device(),
                    "smet: the ", what, " of layer '", layer.name, "' has shape ", tensor.sizes(),
                    ", strides ", tensor.strides(), " on ", tensor.device(), "; expected contiguous ",
                    layer.values.sizes(), " on ", layer.values.device());
}

}  // namespace

void check_layer(const LayerView& layer) {
  TORCH_CHECK_VALUE(layer.values.defined() && layer.values.dim() == 1, "smet: the values of layer '",
                    layer.name, "' are not a 1-D tensor");
  TORCH_CHECK_VALUE(!layer.values.is_meta(), "smet: layer '", layer.name,
                    "' is on the meta device; move the model to a real one first");
  check_per_weight(layer.values, layer, "values");
  with_layer_name(layer.name, [&] {
    ops::dtype_tag(layer.values.scalar_type(), "values");
    ops::make_pattern(layer.mask, layer.rank, layer.cols, layer.values.numel());
  });
  if (layer.grad.defined()) check_per_weight(layer.grad, layer, "gradient");
  for (const at::Tensor& moment : layer.moments) check_per_weight(moment, layer, "optimizer state");
  TORCH_CHECK_VALUE(layer.cohort.defined() == layer.births.defined(), "smet: layer '", layer.name,
                    "' has one of cohort and births; expected both or none");
  if (!layer.cohort.defined()) return;
  check_per_weight(layer.cohort, layer, "cohort");
  TORCH_CHECK_TYPE(layer.cohort.scalar_type() == at::kByte && layer.births.scalar_type() == at::kLong,
                   "smet: cohort and births of layer '", layer.name, "' are ", layer.cohort.scalar_type(),
                   " and ", layer.births.scalar_type(), "; expected uint8 and int64");
  TORCH_CHECK_VALUE(layer.births.dim() == 1 && layer.births.numel() == kCohortIds &&
                        layer.births.is_contiguous() &&
                        (layer.births.device().is_cpu() || layer.births.device() == layer.values.device()),
                    "smet: births of layer '", layer.name, "' have shape ", layer.births.sizes(), " on ",
                    layer.births.device(), "; expected contiguous [256] on cpu or ", layer.values.device());
}

void check_candidates(const LayerView& layer, std::int64_t k) {
  const at::Tensor& positions = layer.grow_candidates;
  const bool recorded = positions.defined() && positions.dim() == 1 && positions.numel() == k &&
                        positions.scalar_type() == at::kLong && !positions.lt(0).any().item<bool>();
  TORCH_CHECK(recorded, "smet: gradient growth has no candidates for layer '", layer.name, "'; expected ", k,
              " positions recorded by the last backward pass before this update. Run the layer's forward and "
              "backward in training mode between two calls of the scheduler's step(), or use grow='random'");
}

void check_scores(const at::Tensor& score, const LayerView& layer) {
  TORCH_CHECK_VALUE(
      score.defined() && score.sizes() == layer.values.sizes(), "smet: the prune callable returned ",
      score.defined() ? "shape " + c10::str(score.sizes()) : std::string("nothing"), " for layer '",
      layer.name, "'; expected one score per active weight, ", layer.values.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(score.scalar_type()), "smet: the prune callable returned dtype ",
                   score.scalar_type(), " for layer '", layer.name, "'; expected a floating dtype");
  TORCH_CHECK_VALUE(score.device() == layer.values.device(), "smet: the prune callable returned a tensor on ",
                    score.device(), " for layer '", layer.name, "'; expected ", layer.values.device());
}

void check_positions(const at::Tensor& positions, std::int64_t k, const LayerView& layer) {
  TORCH_CHECK_VALUE(positions.defined(), "smet: the grow callable returned nothing for layer '", layer.name,
                    "'; expected an int64 tensor of ", k, " inactive flat positions");
  TORCH_CHECK_TYPE(positions.scalar_type() == at::kLong, "smet: the grow callable returned dtype ",
                   positions.scalar_type(), " for layer '", layer.name, "'; expected int64");
  TORCH_CHECK_VALUE(positions.dim() == 1 && positions.numel() == k, "smet: the grow callable returned shape ",
                    positions.sizes(), " for layer '", layer.name, "'; expected [", k, "]");
  TORCH_CHECK_VALUE(positions.device() == layer.values.device(),
                    "smet: the grow callable returned a tensor on ", positions.device(), " for layer '",
                    layer.name, "'; expected ", layer.values.device());
}

}  // namespace smet
