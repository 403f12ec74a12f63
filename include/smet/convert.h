// SPDX-License-Identifier: BSD-3-Clause
// convert: dense models to sparse ones and back, in place, names unchanged. The C++ twin of smet.sparsify_.
//
// What a model's class holds as a member has a fixed type, torch::nn::Linear, and cannot become another
// layer: such layers are declared as SparseLinear (SparseLinear::from_dense takes weights over). sparsify_
// converts the layers of torch::nn::Sequential, wherever in the model one is, and refuses to leave another
// one dense unasked.
#pragma once

#include <torch/arg.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <regex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace smet {

// Chooses layers by name: a string is a substring, or a glob over the whole name where it has one of `* ? [`;
// a regular expression is searched for; a function gets (name, layer).
using Pattern =
    std::variant<std::string, std::regex, std::function<bool(const std::string&, const torch::nn::Module&)>>;
using Patterns = std::vector<Pattern>;

// Whether the layer `module` called `name` is chosen. Throws ValueError for an empty string.
bool matches(const Pattern& pattern, const std::string& name, const torch::nn::Module& module);

// The names that stay dense unless the caller says otherwise; smet.SKIP in Python.
Patterns default_skip();

// The options of Python's sparsify_, with its names and defaults.
struct SparsifyOptions {
  // One density for all layers; or (name pattern, density), where the first pattern that matches decides and
  // a layer that none matches stays dense.
  using Density = std::variant<double, std::vector<std::pair<std::string, double>>>;

  TORCH_ARG(Density, density) = 0.25;                          // of (0, 1]
  TORCH_ARG(std::string, distribution) = "uniform";            // or "erk" (distribution.h)
  TORCH_ARG(std::optional<Patterns>, include) = std::nullopt;  // which layers; empty: all
  TORCH_ARG(Patterns, skip) = default_skip();                  // and not these
  TORCH_ARG(std::string, select) = "random";                   // positions; or "magnitude"
  TORCH_ARG(std::optional<double>, init_std);                  // empty: keep the weights
  TORCH_ARG(std::optional<std::string>, init_scale);           // "fan_in": values times 1 / sqrt(density)
  TORCH_ARG(std::uint64_t, seed) = 0;                          // of positions and values
};

// One line of a ConversionTable.
struct ConvertedLayer {
  std::string name;           // in the model
  std::int64_t out_features;  // rows of W
  std::int64_t in_features;   // columns of W
  std::int64_t n;             // weights that exist
  std::int64_t dense_bytes;   // of the weight, all of it
  std::int64_t bytes;         // of values, mask and rank

  double density() const;  // n / (out_features * in_features)
};

// A linear layer that stays dense, and why.
struct KeptLayer {
  std::string name;           // in the model
  std::int64_t out_features;  // rows of W
  std::int64_t in_features;   // columns of W
  std::string reason;         // "skip", "not in include", ...
};

// What sparsify_ did. Bytes are those of weights and index.
struct ConversionTable {
  std::vector<ConvertedLayer> layers;  // that are sparse now
  std::vector<KeptLayer> kept;         // that stay dense

  std::int64_t dense_bytes() const;  // of the converted layers' weights before
  std::int64_t bytes() const;        // of their weights and index now
  double density() const;            // weights that exist over positions
};

// One line per layer, then the sum.
std::ostream& operator<<(std::ostream& stream, const ConversionTable& table);

// Replaces the torch::nn::Linear layers of every torch::nn::Sequential in `model` by SparseLinear, in place;
// n = round(density * out * in). Bias, dtype, device, training flag and requires_grad are kept, a gradient is
// dropped. Build optimizers afterwards. Subclasses of LinearImpl stay dense. One layer exists twice at a
// time. Throws, before anything is changed, c10::ValueError for a bad density, option or pattern; a pattern
// in `include` or `density` that matches nothing; a chosen layer that is sparse already, shares its weight,
// is on the meta device or in no Sequential; nothing left to convert.
ConversionTable sparsify_(torch::nn::Module& model, const SparsifyOptions& options = {});

// Replaces every SparseLinear of a Sequential by the torch::nn::Linear of the same function, in place. Throws
// c10::ValueError when the model has no sparse layer, or has one outside a Sequential.
void densify_(torch::nn::Module& model);

}  // namespace smet
