// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <set>
#include <stdexcept>

#include "smet/checkpoint.h"
#include "smet/sparsify.h"
#include "smet/values_registry.h"
#include "src/checkpoint/contents.h"
#include "src/optim/cohort_table.h"
#include "src/optim/master_low.h"
#include "src/optim/step_call.h"
#include "src/topology/scheduler_state.h"

namespace smet {
namespace checkpoint {
namespace {

using Commit = std::function<void()>;  // carries out what was checked

[[noreturn]] void fail(const std::string& what) {
  throw std::invalid_argument(what);
}

const TensorEntry& entry_of(const TensorFiles& files, const std::string& file, const std::string& name) {
  const auto found = files.find(file);
  if (found == files.end()) fail("no file " + file);
  const auto entry = found->second.entries.find(name);
  if (entry == found->second.entries.end()) fail("no tensor '" + name + "' in " + file);
  return entry->second;
}

// A copy, aligned as tensors are.
at::Tensor read(const TensorFiles& files, const std::string& file, const std::string& name) {
  const TensorEntry& entry = entry_of(files, file, name);
  at::Tensor tensor = at::empty(entry.shape, dtype_of(entry.dtype));
  const std::string_view bytes = files.at(file).bytes(entry);
  if (!bytes.empty()) std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

void check_like(const TensorEntry& entry, at::IntArrayRef shape, at::ScalarType dtype) {
  if (entry.dtype == dtype_code(dtype) && at::IntArrayRef(entry.shape) == shape) return;
  fail("tensor '" + entry.name + "' is " + entry.dtype + " " + Json(entry.shape).dump() + "; here it is " +
       dtype_code(dtype) + " " + Json(shape.vec()).dump());
}

class Plan {
 public:
  Plan(const Json& manifest, const TensorFiles& files, torch::nn::Module& model)
      : manifest_(manifest),
        files_(files),
        layers_(sparse_layers(model)),
        model_(model_tensors(model, layers_)) {}

  void check_model();
  void check_optimizer(CompactAdamW& opt);
  void check_topology(TopologyScheduler& topology);
  CheckpointRun check_run(bool restore_generators);
  void check_gradients(torch::nn::Module& model);
  void carry_out() {
    for (const Commit& commit : commits_) commit();
  }

 private:
  void check_mask(const std::string& name, const SparseLinearImpl& layer, const Json& entry);
  void check_state(CompactAdamW& opt, const at::Tensor& param, const std::string& name);
  void plan_copy(const std::string& file, const std::string& name, const at::Tensor& target);
  bool has_state(const std::string& key) const {
    return files_.contains(kOptimizerFile) && files_.at(kOptimizerFile).entries.contains(key);
  }
  // The moments saved for a parameter, by tensor(key).
  template <typename Tensor>
  Moments saved_moments(const std::string& name, const Tensor& tensor) const {
    const bool scales = has_state(name + "/exp_avg_scale");
    return {tensor(name + "/exp_avg"), tensor(name + "/exp_avg_sq"),
            scales ? tensor(name + "/exp_avg_scale") : at::Tensor(),
            scales ? tensor(name + "/exp_avg_sq_scale") : at::Tensor()};
  }

  const Json& manifest_;
  const TensorFiles& files_;
  Layers layers_;
  ModelTensors model_;
  std::vector<Commit> commits_;
};

void Plan::plan_copy(const std::string& file, const std::string& name, const at::Tensor& target) {
  check_like(entry_of(files_, file, name), target.sizes(), target.scalar_type());
  commits_.push_back([this, file, name, target] {
    const at::NoGradGuard no_grad;
    target.copy_(read(files_, file, name));
  });
}

void Plan::check_mask(const std::string& name, const SparseLinearImpl& layer, const Json& entry) {
  const std::int64_t out = layer.options.out_features(), cols = layer.options.in_features();
  if (!entry.is_object() || entry.value("shape", Json()) != Json({out, cols})) {
    fail("layer '" + name + "' was saved with another shape");
  }
  if (entry.value("n", Json()) != layer.nnz()) {
    fail("layer '" + name + "' was saved with " + entry.value("n", Json()).dump() +
         " active weights; here it has " + std::to_string(layer.nnz()) +
         ". Build the model with the density it was saved with");
  }
  const std::string key = name.empty() ? "mask" : name + ".mask";
  check_like(entry_of(files_, kModelFile, key), layer.mask.sizes(), at::kInt);
  const at::Tensor mask = read(files_, kModelFile, key);
  layer.check_mask(mask, ("mask saved for layer '" + name + "'").c_str());
  if (entry.value("hash", Json()) != hash_text(mask, cols)) {
    fail("the topology hash of layer '" + name + "' is not that of the manifest");
  }
}

void Plan::check_model() {
  const Json& aliases = manifest_["aliases"];
  std::set<std::string> saved;
  for (const auto& [name, first] : aliases.items()) saved.insert(name);
  if (files_.contains(kModelFile)) {
    for (const auto& [name, entry] : files_.at(kModelFile).entries) saved.insert(name);
  }
  std::set<std::string> here;
  for (const auto& [name, tensor] : model_.tensors) here.insert(name);
  for (const auto& [name, first] : model_.aliases) here.insert(name);
  for (const std::string& name : here) {
    if (!saved.contains(name)) fail("no tensor '" + name + "' for the model here");
  }
  for (const std::string& name : saved) {
    if (!here.contains(name)) fail("tensor '" + name + "' has no place in the model here");
  }
  for (const auto& [name, layer] : layers_) check_mask(name, *layer, manifest_["layers"].value(name, Json()));
  for (const auto& [name, target] : model_.tensors) {
    plan_copy(kModelFile, aliases.value(name, name), target);
  }
  commits_.push_back([this] {
    for (const auto& [name, layer] : layers_) layer->set_mask(layer->mask);  // derives rank
  });
}

void Plan::check_state(CompactAdamW& opt, const at::Tensor& param, const std::string& name) {
  // Of any format, and converted to that of `opt`; here only their shapes and dtypes.
  const std::string problem = moments_problem(
      param, saved_moments(name, [this](const std::string& key) {
        const TensorEntry& entry = entry_of(files_, kOptimizerFile, key);
        return at::empty(entry.shape, at::TensorOptions(at::kMeta).dtype(dtype_of(entry.dtype)));
      }));
  if (!problem.empty()) fail("the optimizer state of '" + name + "': " + problem);
  check_like(entry_of(files_, kOptimizerFile, name + "/step"), {}, at::kLong);
  const auto step = read(files_, kOptimizerFile, name + "/step").item<std::int64_t>();
  if (step < 0) fail("the optimizer state of '" + name + "' has step " + std::to_string(step));
  const std::string low = name + "/master_low";
  if (has_state(low)) check_like(entry_of(files_, kOptimizerFile, low), param.sizes(), at::kShort);
  const bool sparse = values_info(param).has_value();
  if (sparse) {
    check_like(entry_of(files_, kOptimizerFile, name + "/cohort"), param.sizes(), at::kByte);
    check_like(entry_of(files_, kOptimizerFile, name + "/births"), {kCohortIds}, at::kLong);
    check_cohorts(read(files_, kOptimizerFile, name + "/cohort"),
                  read(files_, kOptimizerFile, name + "/births"), param.numel(), step, name);
  }
  commits_.push_back([this, &opt, param, name, low, step, sparse] {
    CompactAdamWParamState& state = opt.state_of(param);
    state.step(step);
    const Moments saved =
        saved_moments(name, [this](const std::string& key) { return read(files_, kOptimizerFile, key); });
    const at::NoGradGuard no_grad;
    copy_moments_(
        param, {state.exp_avg(), state.exp_avg_sq(), state.exp_avg_scale(), state.exp_avg_sq_scale()}, saved);
    copy_master_low_(state.master_low(), has_state(low) ? read(files_, kOptimizerFile, low) : at::Tensor());
    if (!sparse) return;
    state.cohort().copy_(read(files_, kOptimizerFile, name + "/cohort"));
    state.births().copy_(read(files_, kOptimizerFile, name + "/births"));
  });
}

void Plan::check_optimizer(CompactAdamW& opt) {
  const Json& saved = manifest_["optimizer"];
  if (!saved.is_object()) fail("it was saved without an optimizer");
  if (saved.value("class", Json()) != "CompactAdamW") fail("it was saved with another optimizer");
  const Json groups = saved.value("groups", Json());
  if (!groups.is_array() || groups.size() != opt.param_groups().size()) {
    fail("it has another number of parameter groups than the optimizer here");
  }
  // Gradients, and what a backward pass with fused_backward updated, are of the state that goes.
  commits_.push_back([&opt] {
    opt.zero_grad();
    opt.step();
  });
  const Json listed = saved.value("states", Json::array());
  const std::set<Json> states(listed.begin(), listed.end());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    auto& group = opt.param_groups()[g];
    const Json members = groups[g].value("params", Json::array());
    std::set<Json> names(members.begin(), members.end());
    const auto options = options_from_json(groups[g].value("options", Json()),
                                           static_cast<const CompactAdamWOptions&>(group.options()));
    for (const at::Tensor& param : group.params()) {
      const auto known = model_.names.find(param.unsafeGetTensorImpl());
      if (known == model_.names.end()) fail("a parameter of the optimizer is not one of the model's");
      const std::string& name = known->second;
      if (names.erase(name) == 0)
        fail("parameter group " + std::to_string(g) + " was saved without '" + name + "'");
      if (states.contains(name)) {
        check_state(opt, param, name);
      } else {
        commits_.push_back([&opt, param] { opt.state().erase(param.unsafeGetTensorImpl()); });
      }
    }
    if (!names.empty()) {
      fail("parameter group " + std::to_string(g) + " was saved with " + names.begin()->dump() +
           ", which the group here has not");
    }
    commits_.push_back([&group, options] { static_cast<CompactAdamWOptions&>(group.options()) = options; });
  }
}

void Plan::check_topology(TopologyScheduler& topology) {
  if (!manifest_["topology"].is_object()) fail("it was saved without a topology scheduler");
  TopologyState state = topology_from_json(manifest_["topology"]);
  for (auto& [name, record] : state.layers) {
    const std::string key = "explored/" + name;
    const bool saved = files_.contains(kRunFile) && files_.at(kRunFile).entries.contains(key);
    if (saved) record.explored = read(files_, kRunFile, key);
  }
  topology_engine(topology).check_state(state);
  commits_.push_back([&topology, state] { load_topology_state(topology, state); });
}

CheckpointRun Plan::check_run(bool restore_generators) {
  CheckpointRun run{.state = manifest_["run"].dump(), .tensors = {}};
  if (!files_.contains(kRunFile)) return run;
  for (const auto& [name, entry] : files_.at(kRunFile).entries) {
    const auto starts = [&name = name](const char* prefix) { return name.rfind(prefix, 0) == 0; };
    if (name == "generators/0/torch") {
      if (!restore_generators) continue;
      at::Generator generator = at::detail::getDefaultCPUGenerator();
      check_like(entry, generator.get_state().sizes(), at::kByte);
      try {
        at::detail::createCPUGenerator().set_state(read(files_, kRunFile, name));
      } catch (const c10::Error& error) {
        fail(std::string("the state of generator 'torch' is none: ") + error.what_without_backtrace());
      }
      commits_.push_back(
          [this, generator]() mutable { generator.set_state(read(files_, kRunFile, "generators/0/torch")); });
    } else if (!starts("explored/") && !starts("grow_candidates/") && !starts("gradients/")) {
      run.tensors[name] = read(files_, kRunFile, name);
    }
  }
  return run;
}

// Gradients and growth candidates, where the checkpoint has them; else none are left over here.
void Plan::check_gradients(torch::nn::Module& model) {
  const auto saved = [this](const std::string& key) {
    return files_.contains(kRunFile) && files_.at(kRunFile).entries.contains(key);
  };
  for (const at::Tensor& param : model.parameters()) {
    const std::string key = "gradients/" + model_.names.at(param.unsafeGetTensorImpl());
    if (saved(key)) check_like(entry_of(files_, kRunFile, key), param.sizes(), param.scalar_type());
    commits_.push_back([this, param, key, has = saved(key)] {
      param.mutable_grad() = has ? read(files_, kRunFile, key).to(param.device()) : at::Tensor();
    });
  }
  for (const auto& [name, layer] : layers_) {
    const std::string key = "grow_candidates/" + name;
    if (!saved(key)) continue;
    commits_.push_back([this, layer = layer, key] {  // after the topology scheduler has armed its layers
      layer->grow_candidates = read(files_, kRunFile, key).to(layer->values.device());
    });
  }
}

Checkpoint load(const Path& path, torch::nn::Module& model, CompactAdamW* opt, TopologyScheduler* topology,
                const LoadOptions& options) {
  FileNames needed{kModelFile, kRunFile};
  if (opt != nullptr) needed.insert(kOptimizerFile);
  Path folder = path;
  if (!std::filesystem::exists(path / kManifest)) {
    const auto latest = latest_checkpoint(path, needed);
    if (!latest) fail(path.string() + " holds no checkpoint; expected a step folder, or a folder of them");
    folder = *latest;
  }
  const Json manifest = read_manifest(folder);
  const TensorFiles files = open_files(folder, manifest, needed);
  Plan plan(manifest, files, model);
  Checkpoint found{.path = folder.string(), .step = manifest["step"].get<std::int64_t>(), .run = {}};
  try {
    plan.check_model();
    if (opt != nullptr) plan.check_optimizer(*opt);
    if (topology != nullptr) plan.check_topology(*topology);
    found.run = plan.check_run(options.restore_generators);
    plan.check_gradients(model);
  } catch (const std::invalid_argument& error) {
    fail(folder.string() + ": " + error.what() + "; nothing was changed");
  } catch (const Json::exception& error) {
    fail(folder.string() + ": the manifest is not as it should be: " + error.what() +
         "; nothing was changed");
  }
  if (options.check_extra) options.check_extra(found.run);
  plan.carry_out();
  return found;
}

}  // namespace
}  // namespace checkpoint

std::optional<std::string> latest_checkpoint(const std::string& root) {
  try {
    const auto found = checkpoint::latest_checkpoint(root);
    return found ? std::optional(found->string()) : std::nullopt;
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, "smet: ", error.what());
  }
}

void verify_checkpoint(const std::string& path) {
  try {
    checkpoint::open_files(path, checkpoint::read_manifest(path));
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, "smet: ", error.what());
  }
}

Checkpoint load_checkpoint(const std::string& path, torch::nn::Module& model, CompactAdamW* opt,
                           TopologyScheduler* topology, const LoadOptions& options) {
  try {
    return checkpoint::load(path, model, opt, topology, options);
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, "smet: ", error.what());
  }
}

}  // namespace smet
