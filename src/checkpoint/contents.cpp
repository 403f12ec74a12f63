// SPDX-License-Identifier: BSD-3-Clause
#include "src/checkpoint/contents.h"

#include <c10/util/Exception.h>

#include <array>
#include <cstdio>

#include "src/topology/observe.h"

namespace smet::checkpoint {
namespace {

constexpr std::array<std::pair<at::ScalarType, const char*>, 10> kCodes{{{at::kBool, "BOOL"},
                                                                         {at::kByte, "U8"},
                                                                         {at::kChar, "I8"},
                                                                         {at::kShort, "I16"},
                                                                         {at::kHalf, "F16"},
                                                                         {at::kBFloat16, "BF16"},
                                                                         {at::kInt, "I32"},
                                                                         {at::kFloat, "F32"},
                                                                         {at::kDouble, "F64"},
                                                                         {at::kLong, "I64"}}};

// The member `key` as T, or ValueError.
template <typename T>
T member(const Json& json, const char* key) {
  TORCH_CHECK_VALUE(json.is_object() && json.contains(key), "no '", key, "' where one belongs");
  try {
    return json[key].get<T>();
  } catch (const Json::exception&) {
    TORCH_CHECK_VALUE(false, "'", key, "' is ", json[key].dump(), ", which is of the wrong type");
  }
}

TopologyState::Value option_value(const Json& json) {
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) return json.get<std::int64_t>();
  if (json.is_number_float()) return json.get<double>();
  TORCH_CHECK_VALUE(json.is_string(), "an option of the topology is ", json.dump());
  return json.get<std::string>();
}

}  // namespace

ModelTensors model_tensors(torch::nn::Module& model, const Layers& layers) {
  std::unordered_map<const void*, bool> derived;
  for (const auto& [name, layer] : layers) derived[layer->rank.unsafeGetTensorImpl()] = true;
  ModelTensors found;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    if (!tensor.defined() || derived.contains(tensor.unsafeGetTensorImpl())) return;
    TORCH_CHECK_VALUE(!tensor.is_meta(), "smet: '", name,
                      "' is on the meta device and has no values; give the model memory first: "
                      "model.to_empty(torch::kCPU)");
    const auto [at, fresh] = found.names.emplace(tensor.unsafeGetTensorImpl(), name);
    if (fresh) {
      found.tensors.emplace(name, tensor);
    } else {
      found.aliases.emplace(name, at->second);
    }
  };
  for (const auto& item : model.named_parameters()) add(item.key(), item.value());
  for (const auto& item : model.named_buffers()) add(item.key(), item.value());
  return found;
}

const char* dtype_code(at::ScalarType type) {
  for (const auto& [known, code] : kCodes) {
    if (known == type) return code;
  }
  TORCH_CHECK_VALUE(false, "smet: a tensor has dtype ", type, ", which a checkpoint does not hold");
}

at::ScalarType dtype_of(const std::string& code) {
  for (const auto& [type, known] : kCodes) {
    if (known == code) return type;
  }
  TORCH_CHECK_VALUE(false, "smet: unknown dtype ", code);
}

std::string hash_text(const at::Tensor& mask, std::int64_t cols) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(layer_hash(mask, cols)));
  return text;
}

Json options_to_json(const CompactAdamWOptions& options) {
  const auto& [beta1, beta2] = options.betas();
  return {{"lr", options.lr()},
          {"betas", {{"$tuple", {beta1, beta2}}}},
          {"eps", options.eps()},
          {"weight_decay", options.weight_decay()},
          {"coupled_weight_decay", options.coupled_weight_decay()},
          {"density_scaling", options.density_scaling()},
          {"warmup", options.age_schedule().warmup},
          {"boost", options.age_schedule().boost},
          {"boost_tau", options.age_schedule().boost_tau},
          {"age_schedule", options.age_schedule().custom ? Json("callable") : Json()},
          {"local_age", options.local_age()},
          {"maximize", options.maximize()},
          {"stochastic_rounding", options.stochastic_rounding()},
          {"master_weights", options.master_weights()},
          {"moments", options.moments()},
          {"seed", options.seed()}};
}

CompactAdamWOptions options_from_json(const Json& json, const CompactAdamWOptions& here) {
  CompactAdamWOptions options = here;
  const auto betas = member<Json>(json, "betas");
  const auto pair = member<std::vector<double>>(betas, "$tuple");
  TORCH_CHECK_VALUE(pair.size() == 2, "'betas' is ", betas.dump(), "; expected two numbers");
  options.lr(member<double>(json, "lr"));
  options.betas(std::make_tuple(pair[0], pair[1]));
  options.eps(member<double>(json, "eps"));
  options.weight_decay(member<double>(json, "weight_decay"));
  options.coupled_weight_decay(member<bool>(json, "coupled_weight_decay"));
  options.density_scaling(member<double>(json, "density_scaling"));
  AgeSchedule schedule = AgeSchedule::none();
  const auto word = member<Json>(json, "age_schedule");
  if (word == "callable") {
    TORCH_CHECK_VALUE(here.age_schedule().custom, "it was saved with a callable age_schedule; set one");
    schedule = here.age_schedule();
  }
  if (word != "none") {
    schedule.warmup = member<double>(json, "warmup");
    schedule.boost = member<double>(json, "boost");
    schedule.boost_tau = member<double>(json, "boost_tau");
  }
  options.age_schedule(schedule);
  options.local_age(member<bool>(json, "local_age"));
  options.maximize(member<bool>(json, "maximize"));
  // How bfloat16 parameters are rounded is decided where the optimizer is built, unless it was so already.
  const bool masters = json.contains("master_weights") && member<bool>(json, "master_weights");
  if (masters == here.master_weights()) {
    options.stochastic_rounding(member<bool>(json, "stochastic_rounding"));
  }
  options.seed(member<std::int64_t>(json, "seed"));
  options.check();
  return options;
}

Json topology_to_json(const TopologyState& state, Tensors& run) {
  Json config = Json::object(), layers = Json::object();
  for (const auto& [name, value] : state.config) {
    std::visit([&, key = name](const auto& v) { config[key] = v; }, value);
  }
  for (const auto& [name, record] : state.layers) {
    layers[name] = {{"n", record.n},
                    {"last_cohort_id", record.last_cohort_id},
                    {"last_cohort_size", record.last_cohort_size}};
    if (record.explored.defined()) run["explored/" + name] = record.explored;
  }
  return {{"version", 1},
          {"config", config},
          {"steps", state.steps},
          {"updates", state.updates},
          {"optimizer_step", state.optimizer_step.value_or(-1)},
          {"layers", layers}};
}

TopologyState topology_from_json(const Json& json) {
  TORCH_CHECK_VALUE(member<std::int64_t>(json, "version") == 1, "the topology's format is not 1");
  TopologyState state;
  const auto config = member<Json>(json, "config"), layers = member<Json>(json, "layers");
  TORCH_CHECK_VALUE(config.is_object() && layers.is_object(), "the topology is not made of objects");
  for (const auto& [name, value] : config.items()) state.config.emplace_back(name, option_value(value));
  state.steps = member<std::int64_t>(json, "steps");
  state.updates = member<std::int64_t>(json, "updates");
  const auto optimizer_step = member<std::int64_t>(json, "optimizer_step");
  if (optimizer_step >= 0) state.optimizer_step = optimizer_step;
  for (const auto& [name, value] : layers.items()) {
    LayerRecord record;
    record.n = member<std::int64_t>(value, "n");
    record.last_cohort_id = member<std::int64_t>(value, "last_cohort_id");
    record.last_cohort_size = member<std::int64_t>(value, "last_cohort_size");
    state.layers.emplace(name, std::move(record));
  }
  return state;
}

}  // namespace smet::checkpoint
