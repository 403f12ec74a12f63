// SPDX-License-Identifier: BSD-3-Clause
#include "smet/convert.h"

#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <array>
#include <typeinfo>
#include <unordered_map>

#include "smet/distribution.h"
#include "smet/sparse_linear.h"
#include "src/nn/linear_places.h"

namespace smet {
namespace {

struct Plan {
  std::vector<LinearPlace> layers;
  std::vector<KeptLayer> kept;
};

bool any_matches(const Patterns& patterns, const LinearPlace& layer) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const Pattern& pattern) { return matches(pattern, layer.name, *layer.module); });
}

std::string text_of(const Pattern& pattern) {
  if (const auto* text = std::get_if<std::string>(&pattern)) return "'" + *text + "'";
  return pattern.index() == 1 ? "a regular expression" : "a function";
}

void check_options(const SparsifyOptions& options) {
  TORCH_CHECK_VALUE(options.select() == "random" || options.select() == "magnitude", "smet: select is '",
                    options.select(), "'; expected 'random' or 'magnitude'");
  TORCH_CHECK_VALUE(!options.init_std() || (*options.init_std() > 0 && std::isfinite(*options.init_std())),
                    "smet: init_std is ", options.init_std().value_or(0),
                    "; expected a positive number, or nothing to keep the weights");
  TORCH_CHECK_VALUE(!options.init_scale() || *options.init_scale() == "fan_in", "smet: init_scale is '",
                    options.init_scale().value_or(""), "'; expected 'fan_in' or nothing");
}

// Why a layer stays dense though it was chosen; empty: it does not.
std::string obstacle(const LinearPlace& layer) {
  if (typeid(*layer.module) != typeid(torch::nn::LinearImpl)) return "a subclass of torch::nn::Linear";
  const at::Tensor& weight = static_cast<const torch::nn::LinearImpl&>(*layer.module).weight;
  if (!at::isFloatingType(weight.scalar_type())) return "its dtype";
  return weight.numel() == 0 ? "no weights" : "";
}

Plan choose(torch::nn::Module& model, const SparsifyOptions& options) {
  Plan plan;
  std::vector<LinearPlace> candidates = linear_places(model);
  for (const Pattern& pattern : options.include().value_or(Patterns{})) {
    const bool found = std::any_of(candidates.begin(), candidates.end(), [&](const LinearPlace& layer) {
      return matches(pattern, layer.name, *layer.module) && !any_matches(options.skip(), layer);
    });
    TORCH_CHECK_VALUE(found, "smet: include = ", text_of(pattern),
                      " matches no linear layer that skip does not leave out");
  }
  for (LinearPlace& layer : candidates) {
    std::string reason;
    if (any_matches(options.skip(), layer)) {
      reason = "skip";
    } else if (options.include() && !any_matches(*options.include(), layer)) {
      reason = "not in include";
    } else {
      TORCH_CHECK_VALUE(dynamic_cast<SparseLinearImpl*>(layer.module.get()) == nullptr, "smet: layer '",
                        layer.name, "' is sparse already; skip it, or densify_ the model first");
      reason = obstacle(layer);
    }
    if (reason.empty()) {
      plan.layers.push_back(std::move(layer));
    } else {
      plan.kept.push_back({layer.name, layer.out_features, layer.in_features, reason});
    }
  }
  return plan;
}

// n of every layer; with densities by pattern, layers that none matches become kept ones.
void count(Plan& plan, const SparsifyOptions& options) {
  if (const auto* density = std::get_if<double>(&options.density())) {
    std::vector<std::array<std::int64_t, 2>> shapes;
    for (const LinearPlace& layer : plan.layers) shapes.push_back({layer.out_features, layer.in_features});
    const std::vector<std::int64_t> counts = distribute(shapes, *density, options.distribution());
    for (std::size_t i = 0; i < counts.size(); ++i) plan.layers[i].n = counts[i];
    return;
  }
  TORCH_CHECK_VALUE(options.distribution() == "uniform", "smet: distribution '", options.distribution(),
                    "' shares out one global density; with densities by pattern only 'uniform' makes sense");
  std::vector<LinearPlace> layers = std::move(plan.layers);
  plan.layers.clear();
  const auto& densities = std::get<1>(options.density());
  std::vector<bool> used(densities.size());
  for (LinearPlace& layer : layers) {
    std::optional<double> density;
    for (std::size_t i = 0; i < densities.size(); ++i) {
      if (!matches(densities[i].first, layer.name, *layer.module)) continue;
      used[i] = true;
      if (!density) density = densities[i].second;
    }
    if (density) {
      layer.n = active_count(*density, layer.out_features, layer.in_features);
      plan.layers.push_back(std::move(layer));
    } else {
      plan.kept.push_back({layer.name, layer.out_features, layer.in_features, "no density given"});
    }
  }
  for (std::size_t i = 0; i < used.size(); ++i) {
    TORCH_CHECK_VALUE(used[i], "smet: density of '", densities[i].first, "' matches no layer");
  }
}

// Which modules hold a parameter at an address.
using Owners = std::unordered_map<const void*, std::vector<std::pair<const torch::nn::Module*, std::string>>>;

Owners owners_of(torch::nn::Module& model) {
  Owners owners;
  const auto add = [&](const torch::nn::Module& module, const std::string& prefix) {
    for (const auto& item : module.named_parameters(/*recurse=*/false))
      owners[item.value().storage().data()].emplace_back(&module, prefix + item.key());
  };
  add(model, "");
  for (const auto& item : model.named_modules(/*name_prefix=*/"", /*include_self=*/false))
    add(*item.value(), item.key() + ".");
  return owners;
}

void check_layers(torch::nn::Module& model, const Plan& plan) {
  TORCH_CHECK_VALUE(!plan.layers.empty(), "smet: no layer to make sparse is left in the model (",
                    plan.kept.size(), " stay dense)");
  const Owners owners = owners_of(model);
  for (const LinearPlace& layer : plan.layers) {
    const at::Tensor& weight = static_cast<torch::nn::LinearImpl&>(*layer.module).weight;
    TORCH_CHECK_VALUE(exchangeable(layer), "smet: layer '", layer.name,
                      "' is in no torch::nn::Sequential, so a member of type torch::nn::Linear may hold it: "
                      "declare it as smet::SparseLinear, or leave it out with skip");
    TORCH_CHECK_VALUE(!weight.is_meta(), "smet: layer '", layer.name,
                      "' is on the meta device; build the model where it will train");
    for (const auto& [owner, name] : owners.at(weight.storage().data())) {
      TORCH_CHECK_VALUE(owner == layer.module.get(), "smet: the weight of layer '", layer.name,
                        "' is shared with '", name,
                        "', and a sparse layer cannot share its weight: skip it, or untie the two");
    }
    TORCH_CHECK_VALUE(layer.n > 0, "smet: layer '", layer.name, "' of shape ", layer.out_features, " x ",
                      layer.in_features,
                      " would keep no weight: raise the density, or leave it out with skip");
  }
}

std::int64_t bytes_of(const at::Tensor& tensor) {
  return static_cast<std::int64_t>(tensor.nbytes());
}

}  // namespace

double ConvertedLayer::density() const {
  return static_cast<double>(n) / (static_cast<double>(out_features) * static_cast<double>(in_features));
}

std::int64_t ConversionTable::dense_bytes() const {
  std::int64_t sum = 0;
  for (const ConvertedLayer& layer : layers) sum += layer.dense_bytes;
  return sum;
}

std::int64_t ConversionTable::bytes() const {
  std::int64_t sum = 0;
  for (const ConvertedLayer& layer : layers) sum += layer.bytes;
  return sum;
}

double ConversionTable::density() const {
  double n = 0, positions = 0;
  for (const ConvertedLayer& layer : layers) {
    n += static_cast<double>(layer.n);
    positions += static_cast<double>(layer.out_features) * static_cast<double>(layer.in_features);
  }
  return n / positions;
}

std::ostream& operator<<(std::ostream& stream, const ConversionTable& table) {
  for (const ConvertedLayer& layer : table.layers) {
    stream << layer.name << "  " << layer.out_features << " x " << layer.in_features << "  n " << layer.n
           << "  density " << layer.density() << "  " << layer.bytes << " bytes\n";
  }
  for (const KeptLayer& layer : table.kept) {
    stream << "stays dense: " << layer.name << "  " << layer.out_features << " x " << layer.in_features
           << "  (" << layer.reason << ")\n";
  }
  return stream << "dense " << table.dense_bytes() << " -> " << table.bytes() << " bytes";
}

ConversionTable sparsify_(torch::nn::Module& model, const SparsifyOptions& options) {
  check_options(options);
  Plan plan = choose(model, options);
  count(plan, options);
  check_layers(model, plan);
  ConversionTable table{.layers = {}, .kept = std::move(plan.kept)};
  for (const LinearPlace& layer : plan.layers) {
    const auto& dense = static_cast<const torch::nn::LinearImpl&>(*layer.module);
    // from_dense rounds density * positions to n again, exactly: the quotient is off by less than 1e-16.
    const double density = static_cast<double>(layer.n) /
                           (static_cast<double>(layer.out_features) * static_cast<double>(layer.in_features));
    const auto sparse =
        SparseLinearImpl::from_dense(dense,
                                     SparseLinearOptions(layer.in_features, layer.out_features)
                                         .density(density)
                                         .seed(options.seed())
                                         .name(layer.name)
                                         .init_std(options.init_std())
                                         .init_scale(options.init_scale()),
                                     {}, options.select());
    table.layers.push_back(
        {.name = layer.name,
         .out_features = layer.out_features,
         .in_features = layer.in_features,
         .n = layer.n,
         .dense_bytes = bytes_of(dense.weight),
         .bytes = bytes_of(sparse->values) + bytes_of(sparse->mask) + bytes_of(sparse->rank)});
    exchange(layer, sparse);
  }
  return table;
}

void densify_(torch::nn::Module& model) {
  std::vector<LinearPlace> layers = linear_places(model);
  std::erase_if(layers, [](const LinearPlace& layer) {
    return dynamic_cast<SparseLinearImpl*>(layer.module.get()) == nullptr;
  });
  TORCH_CHECK_VALUE(!layers.empty(), "smet: densify_: the model has no sparse layer");
  for (const LinearPlace& layer : layers) {
    TORCH_CHECK_VALUE(exchangeable(layer), "smet: densify_: layer '", layer.name,
                      "' is in no torch::nn::Sequential, so a member of type smet::SparseLinear may hold it");
  }
  for (const LinearPlace& layer : layers) {
    exchange(layer, static_cast<SparseLinearImpl&>(*layer.module).to_dense().ptr());
  }
}

}  // namespace smet
