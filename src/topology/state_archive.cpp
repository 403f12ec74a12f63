// SPDX-License-Identifier: BSD-3-Clause
#include "src/topology/state_archive.h"

#include <c10/util/Exception.h>

namespace smet {
namespace {

constexpr std::int64_t kStateVersion = 1;

using torch::serialize::InputArchive;
using torch::serialize::OutputArchive;

at::IValue read(InputArchive& archive, const std::string& key) {
  at::IValue value;
  TORCH_CHECK_VALUE(archive.try_read(key, value), "smet: the archive holds no topology state: '", key,
                    "' is missing");
  return value;
}

std::int64_t read_int(InputArchive& archive, const std::string& key) {
  const at::IValue value = read(archive, key);
  TORCH_CHECK_VALUE(value.isInt(), "smet: '", key, "' of the saved topology state is not an integer");
  return value.toInt();
}

std::string read_string(InputArchive& archive, const std::string& key) {
  const at::IValue value = read(archive, key);
  TORCH_CHECK_VALUE(value.isString(), "smet: '", key, "' of the saved topology state is not a string");
  return value.toStringRef();
}

TopologyState::Value config_value(const at::IValue& value, const std::string& key) {
  if (value.isBool()) return value.toBool();
  if (value.isInt()) return value.toInt();
  if (value.isDouble()) return value.toDouble();
  TORCH_CHECK_VALUE(value.isString(), "smet: '", key, "' of the saved topology state is of an unknown type");
  return value.toStringRef();
}

}  // namespace

// Names of layers hold dots, which keys may not; so layers and options are numbered.
void write_state(OutputArchive& archive, const TopologyState& state) {
  const auto write = [](OutputArchive& to, const std::string& key, const auto& value) {
    to.write(key, at::IValue(value));
  };
  write(archive, "topology_version", kStateVersion);
  write(archive, "steps", state.steps);
  write(archive, "updates", state.updates);
  write(archive, "optimizer_step", state.optimizer_step.value_or(-1));
  write(archive, "options", static_cast<std::int64_t>(state.config.size()));
  for (std::size_t i = 0; i < state.config.size(); ++i) {
    const auto& [name, value] = state.config[i];
    write(archive, "option" + std::to_string(i), name);
    std::visit([&](const auto& v) { write(archive, "value" + std::to_string(i), v); }, value);
  }
  write(archive, "layers", static_cast<std::int64_t>(state.layers.size()));
  std::size_t index = 0;
  for (const auto& [name, record] : state.layers) {
    OutputArchive layer(archive.compilation_unit());
    write(layer, "name", name);
    write(layer, "n", record.n);
    write(layer, "last_cohort_id", record.last_cohort_id);
    write(layer, "last_cohort_size", record.last_cohort_size);
    if (record.explored.defined()) layer.write("explored", record.explored, /*is_buffer=*/true);
    archive.write("layer" + std::to_string(index++), layer);
  }
}

TopologyState read_state(InputArchive& archive) {
  const std::int64_t version = read_int(archive, "topology_version");
  TORCH_CHECK_VALUE(version == kStateVersion, "smet: the topology state was saved in format ", version,
                    "; this smet reads format ", kStateVersion);
  TopologyState state;
  state.steps = read_int(archive, "steps");
  state.updates = read_int(archive, "updates");
  const std::int64_t optimizer_step = read_int(archive, "optimizer_step");
  if (optimizer_step >= 0) state.optimizer_step = optimizer_step;
  for (std::int64_t i = 0; i < read_int(archive, "options"); ++i) {
    const std::string name = read_string(archive, "option" + std::to_string(i));
    state.config.emplace_back(name, config_value(read(archive, "value" + std::to_string(i)), name));
  }
  for (std::int64_t i = 0; i < read_int(archive, "layers"); ++i) {
    InputArchive layer;
    const std::string key = "layer" + std::to_string(i);
    TORCH_CHECK_VALUE(archive.try_read(key, layer), "smet: the saved topology state has no '", key, "'");
    LayerRecord record;
    record.n = read_int(layer, "n");
    record.last_cohort_id = read_int(layer, "last_cohort_id");
    record.last_cohort_size = read_int(layer, "last_cohort_size");
    layer.try_read("explored", record.explored, /*is_buffer=*/true);
    state.layers.emplace(read_string(layer, "name"), std::move(record));
  }
  return state;
}

}  // namespace smet
