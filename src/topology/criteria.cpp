// SPDX-License-Identifier: BSD-3-Clause
#include "src/topology/criteria.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <c10/util/Exception.h>

#include "kernels/keyed_draws.h"
#include "src/ops/kernel_glue.h"
#include "src/topology/positions.h"
#include "src/topology/registry.h"

namespace smet {
namespace {

// Prune criteria: TopologyContext -> PruneScores, smallest first.

PruneScores magnitude(const TopologyContext& context) {
  return {context.layer.values, true};
}

// |w g|: the first-order change of the loss when w becomes 0. In the compute type, so that bf16 does not tie.
PruneScores magnitude_gradient(const TopologyContext& context) {
  const auto type = ops::compute_type(context.layer.values.scalar_type());
  return {at::mul(context.layer.values.to(type), context.layer.grad.to(type)), true};
}

// One keyed draw per position, as 53 bits of a double.
PruneScores random_scores(const TopologyContext& context) {
  const at::Tensor positions = context.positions().cpu();
  const at::Tensor score = at::empty(positions.sizes(), at::TensorOptions(at::kDouble));
  const auto* position = positions.const_data_ptr<std::int64_t>();
  auto* out = score.mutable_data_ptr<double>();
  constexpr std::int64_t kChunk = 1 << 14;
  const std::int64_t n = positions.numel();
  kernels::for_chunks(ops::executor(), (n + kChunk - 1) / kChunk, [&](std::int64_t chunk) {
    for (std::int64_t i = chunk * kChunk; i < std::min(n, (chunk + 1) * kChunk); ++i) {
      const auto draw = kernels::keyed_draw(context.key, kernels::DrawStream::scores,
                                            static_cast<std::uint32_t>(context.update),
                                            static_cast<std::uint64_t>(position[i]));
      out[i] = static_cast<double>(draw >> 11) * 0x1p-53;
    }
  });
  return {score.to(context.layer.values.device())};
}

// Grow criteria: (TopologyContext, k) -> flat positions, or nullopt for keyed draws.

std::optional<at::Tensor> random_positions(const TopologyContext& /*context*/, std::int64_t /*k*/) {
  return std::nullopt;
}

// Largest |dW| among the inactive positions (RigL: Evci et al. 2020), from the last backward pass.
std::optional<at::Tensor> gradient(const TopologyContext& context, std::int64_t /*k*/) {
  return context.layer.grow_candidates;
}

// One function above and one line here per criterion; the tests run over these tables.
const Registry<PruneCriterion>& prune_registry() {
  static const Registry<PruneCriterion> registry(
      "prune criterion", {{"magnitude", {magnitude}},
                          {"magnitude_gradient", {magnitude_gradient, /*needs_gradient=*/true}},
                          {"random", {random_scores}}});
  return registry;
}

const Registry<GrowCriterion>& grow_registry() {
  static const Registry<GrowCriterion> registry(
      "grow criterion",
      {{"random", {random_positions}}, {"gradient", {gradient, /*needs_candidates=*/true}}});
  return registry;
}

}  // namespace

PruneCriterion prune_criterion(const TopologyOptions::Prune& prune) {
  if (const auto* name = std::get_if<std::string>(&prune)) return prune_registry().at(*name);
  const auto& function = std::get<PruneFunction>(prune);
  TORCH_CHECK_VALUE(function, "smet: prune is an empty function; expected a name or a callable");
  return {[function](const TopologyContext& context) { return PruneScores{function(context)}; }, false, true};
}

GrowCriterion grow_criterion(const TopologyOptions::Grow& grow) {
  if (const auto* name = std::get_if<std::string>(&grow)) return grow_registry().at(*name);
  const auto& function = std::get<GrowFunction>(grow);
  TORCH_CHECK_VALUE(function, "smet: grow is an empty function; expected a name or a callable");
  return {[function](const TopologyContext& context, std::int64_t k) {
            return std::optional<at::Tensor>(function(context, k));
          },
          false, true};
}

std::vector<std::string> prune_criteria() {
  return prune_registry().names();
}

std::vector<std::string> grow_criteria() {
  return grow_registry().names();
}

at::Tensor TopologyContext::positions() const {
  return active_positions(layer.mask, layer.rank, layer.cols, layer.values.numel());
}

}  // namespace smet
