// SPDX-License-Identifier: BSD-3-Clause
#include "run_config.h"

#include <smet/distribution.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <numbers>
#include <stdexcept>

namespace llama {
namespace {

nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) {
    throw std::runtime_error(path.string() + " cannot be read; expected the folder that " +
                             "`smet pretrain --prepare --out FOLDER ...` writes");
  }
  try {
    return nlohmann::json::parse(file);
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(path.string() + ": " + error.what());
  }
}

// Options that change what a run computes, and so may not change between its two halves.
constexpr std::array kFixed{"method",
                            "density",
                            "distribution",
                            "init_scale",
                            "adam",
                            "warmup",
                            "boost",
                            "boost_tau",
                            "interval",
                            "fraction",
                            "final_fraction",
                            "fraction_schedule",
                            "stop",
                            "prune",
                            "grow",
                            "density_scaling",
                            "seq",
                            "dtype",
                            "steps",
                            "lr",
                            "lr_warmup",
                            "lr_final",
                            "weight_decay",
                            "beta1",
                            "beta2",
                            "clip",
                            "seed",
                            "moments",
                            "stochastic_rounding",
                            "master_weights"};

}  // namespace

RunConfig::RunConfig(const std::filesystem::path& folder) {
  const auto run = read_json(folder / "run.json");
  options = run.at("config");
  data_fingerprint = run.value("data", "");
  if (run.contains("held_out_bytes") && run["held_out_bytes"].is_number()) {
    held_out_bytes = run["held_out_bytes"].get<int64_t>();
  }
  shape = Shape::from_json(read_json(folder / "model" / "config.json"));
  const auto refuse = [&](const char* option, const nlohmann::json& expected) {
    if (const auto got = options.value(option, expected); got != expected) {
      throw std::runtime_error(std::string("option ") + option + " is " + got.dump() +
                               ", which this trainer does not have; expected " + expected.dump());
    }
  };
  refuse("on_nonfinite", "raise");
  refuse("fused_backward", false);
  refuse("checkpoint_activations", false);
  if (whole("seq") > shape.positions) {
    throw std::runtime_error("option seq is " + std::to_string(whole("seq")) + "; the model has only " +
                             std::to_string(shape.positions) + " positions");
  }
}

const nlohmann::json& RunConfig::at(const char* option) const {
  if (!has(option)) throw std::runtime_error(std::string("run.json has no option ") + option);
  return options[option];
}

c10::ScalarType RunConfig::dtype() const {
  const auto name = text("dtype");
  if (name == "float32") return torch::kFloat;
  if (name == "bfloat16") return torch::kBFloat16;
  if (name == "float64") return torch::kDouble;
  throw std::runtime_error("option dtype is '" + name + "'; expected float32, bfloat16 or float64");
}

Sparsity RunConfig::sparsity() const {
  Sparsity result{.density = {}, .seed = static_cast<uint64_t>(whole("seed")), .init_scale = {}};
  if (has("init_scale")) result.init_scale = text("init_scale");
  if (!sparse()) return result;
  const auto projections = shape.projections();
  std::vector<std::array<int64_t, 2>> shapes;
  for (const auto& projection : projections) shapes.push_back({projection.out, projection.in});
  const auto counts = smet::distribute(shapes, number("density"), text("distribution"));
  for (size_t i = 0; i < counts.size(); ++i) {
    const auto& [name, out, in] = projections[i];
    result.density[name] = static_cast<double>(counts[i]) / static_cast<double>(out * in);
  }
  return result;
}

smet::CompactAdamWOptions RunConfig::optimizer() const {
  const auto or_else = [&](const char* option, double value) { return has(option) ? number(option) : value; };
  return smet::CompactAdamWOptions(lr(0))
      .betas({number("beta1"), number("beta2")})
      .weight_decay(number("weight_decay"))
      .density_scaling(or_else("density_scaling", 0))
      .warmup(or_else("warmup", 0))
      .boost(or_else("boost", 1))
      .boost_tau(or_else("boost_tau", 50))
      .local_age(text("adam") == "local")
      .stochastic_rounding(at("stochastic_rounding").get<bool>())
      .master_weights(has("master_weights") && at("master_weights").get<bool>())
      .moments(text("moments"))
      .seed(whole("seed"));
}

smet::TopologyOptions RunConfig::topology() const {
  return smet::TopologyOptions()
      .interval(whole("interval"))
      .fraction(number("fraction"))
      .final_fraction(number("final_fraction"))
      .fraction_schedule(text("fraction_schedule"))
      .stop(number("stop"))
      .total_steps(whole("steps"))
      .prune(text("prune"))
      .grow(text("grow"))
      .seed(whole("seed"));
}

double RunConfig::lr_factor(int64_t done) const {
  const int64_t steps = whole("steps");
  const auto warmup = static_cast<int64_t>(std::ceil(number("lr_warmup") * static_cast<double>(steps)));
  if (done < warmup) return static_cast<double>(done + 1) / static_cast<double>(warmup);
  const double last = number("lr_final");
  const double part =
      static_cast<double>(done - warmup) / static_cast<double>(std::max<int64_t>(1, steps - 1 - warmup));
  return last + (1 - last) * 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, part)));
}

void RunConfig::check_same(const nlohmann::json& saved) const {
  for (const char* option : kFixed) {
    // An option that a saved run does not name was not there yet.
    const auto here = options.value(option, nlohmann::json()), before = saved.value(option, here);
    if (before != here) {
      throw std::runtime_error(std::string("option ") + option + " is " + here.dump() +
                               ", but the checkpoint was saved with " + before.dump());
    }
  }
}

}  // namespace llama
