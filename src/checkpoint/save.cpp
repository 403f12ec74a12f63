// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <stdexcept>

#include "smet/checkpoint.h"
#include "smet/sparsify.h"
#include "smet/version.h"
#include "src/checkpoint/contents.h"
#include "src/topology/scheduler_state.h"

namespace smet {
namespace checkpoint {
namespace {

// Writes one file; its entry in the manifest.
Json write_tensors(const Path& path, const Tensors& tensors) {
  std::vector<TensorEntry> entries;
  std::map<std::string, at::Tensor> stored;
  Json listed = Json::object();
  for (const auto& [name, tensor] : tensors) {
    stored[name] = tensor.detach().cpu().contiguous();
    entries.push_back(
        {.name = name, .dtype = dtype_code(tensor.scalar_type()), .shape = tensor.sizes().vec()});
    listed[name] = {{"dtype", entries.back().dtype}, {"shape", entries.back().shape}};
  }
  const std::string head = make_safetensors_head(entries);
  std::vector<std::string_view> pieces{head};
  std::size_t bytes = head.size();
  for (const TensorEntry& entry : entries) {
    const at::Tensor& tensor = stored.at(entry.name);
    pieces.emplace_back(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
    bytes += tensor.nbytes();
  }
  write_file(path, pieces);
  return {{"bytes", bytes}, {"sha256", sha256(pieces)}, {"tensors", listed}};
}

Json layer_entries(const Layers& layers) {
  Json entries = Json::object();
  for (const auto& [name, layer] : layers) {
    const std::int64_t cols = layer->options.in_features();
    entries[name] = {{"shape", {layer->options.out_features(), cols}},
                     {"n", layer->nnz()},
                     {"hash", hash_text(layer->mask, cols)}};
  }
  return entries;
}

// State tensors as NAME/KEY, and the options of the groups with their parameters by name.
Json optimizer_entry(CompactAdamW& opt, const ModelTensors& model, Tensors& tensors) {
  Json groups = Json::array();
  std::vector<std::string> states;
  for (const auto& group : opt.param_groups()) {
    Json names = Json::array();
    for (const at::Tensor& param : group.params()) {
      const auto known = model.names.find(param.unsafeGetTensorImpl());
      TORCH_CHECK_VALUE(known != model.names.end(),
                        "smet: a parameter of the optimizer is not one of the "
                        "model's, so it has no name to be saved under");
      const std::string& name = known->second;
      names.push_back(name);
      const auto slot = opt.state().find(param.unsafeGetTensorImpl());
      if (slot == opt.state().end()) continue;
      const auto& state = static_cast<const CompactAdamWParamState&>(*slot->second);
      states.push_back(name);
      tensors[name + "/step"] = at::scalar_tensor(state.step(), at::kLong);
      tensors[name + "/exp_avg"] = state.exp_avg();
      tensors[name + "/exp_avg_sq"] = state.exp_avg_sq();
      if (state.exp_avg_scale().defined()) {
        tensors[name + "/exp_avg_scale"] = state.exp_avg_scale();
        tensors[name + "/exp_avg_sq_scale"] = state.exp_avg_sq_scale();
      }
      if (state.master_low().defined()) tensors[name + "/master_low"] = state.master_low();
      if (!state.cohort().defined()) continue;
      tensors[name + "/cohort"] = state.cohort();
      tensors[name + "/births"] = state.births();
    }
    const auto& options = static_cast<const CompactAdamWOptions&>(group.options());
    groups.push_back({{"params", names}, {"options", options_to_json(options)}});
  }
  std::sort(states.begin(), states.end());
  return {{"class", "CompactAdamW"}, {"groups", groups}, {"states", states}};
}

void add_gradients(torch::nn::Module& model, const ModelTensors& contents, const Layers& layers,
                   Tensors& run) {
  for (const at::Tensor& param : model.parameters()) {
    if (param.grad().defined())
      run["gradients/" + contents.names.at(param.unsafeGetTensorImpl())] = param.grad();
  }
  for (const auto& [name, layer] : layers) {
    if (layer->grow_candidates.defined()) run["grow_candidates/" + name] = layer->grow_candidates;
  }
}

void make_room(const Path& root, std::int64_t step) {
  const std::vector<std::int64_t> steps = checkpoint_steps(root);
  if (std::find(steps.begin(), steps.end(), step) == steps.end()) return;
  const Path folder = step_folder(root, step);
  try {
    open_files(folder, read_manifest(folder));
  } catch (const std::invalid_argument&) {
    remove_step(root, step);
    return;
  }
  throw std::invalid_argument(folder.string() +
                              " is there already and whole; save into another folder, or remove it");
}

std::string save(const Path& root, torch::nn::Module& model, CompactAdamW* opt, TopologyScheduler* topology,
                 const SaveOptions& options) {
  const Layers layers = sparse_layers(model);
  ModelTensors contents = model_tensors(model, layers);
  Tensors state, run = options.run.tensors;
  run["generators/0/torch"] = at::detail::getDefaultCPUGenerator().get_state();
  Json manifest = {{"format", kFormat},
                   {"version", kVersion},
                   {"smet", version()},
                   {"step", options.step},
                   {"layers", layer_entries(layers)},
                   {"aliases", contents.aliases},
                   {"run", parse_json(options.run.state)}};
  manifest["optimizer"] = opt != nullptr ? optimizer_entry(*opt, contents, state) : Json();
  manifest["topology"] =
      topology != nullptr ? topology_to_json(topology_engine(*topology).state(), run) : Json();
  if (options.gradients) add_gradients(model, contents, layers, run);

  std::filesystem::create_directories(root);
  const FolderLock lock(root);
  make_room(root, options.step);
  const Path unfinished = unfinished_folder(root, options.step);
  try {
    Json files = Json::object();
    if (!contents.tensors.empty())
      files[kModelFile] = write_tensors(unfinished / kModelFile, contents.tensors);
    if (!state.empty()) files[kOptimizerFile] = write_tensors(unfinished / kOptimizerFile, state);
    files[kRunFile] = write_tensors(unfinished / kRunFile, run);
    manifest["files"] = files;
    const std::string text = dump_manifest(manifest);
    write_file(unfinished / kManifest, {text});
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(unfinished, ignored);
    throw;
  }
  const Path target = publish(unfinished, root, options.step);
  if (options.keep) keep_last(root, *options.keep, options.step);
  return target.string();
}

}  // namespace
}  // namespace checkpoint

std::string save_checkpoint(const std::string& root, torch::nn::Module& model, CompactAdamW* opt,
                            TopologyScheduler* topology, const SaveOptions& options) {
  TORCH_CHECK_VALUE(options.step >= 0, "smet: step is ", options.step, "; expected the optimizer steps done");
  TORCH_CHECK_VALUE(!options.keep || *options.keep >= 1, "smet: keep is below 1; leave it empty to keep all");
  try {
    return checkpoint::save(root, model, opt, topology, options);
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, "smet: ", error.what());
  }
}

}  // namespace smet
