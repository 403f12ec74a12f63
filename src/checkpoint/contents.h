// SPDX-License-Identifier: BSD-3-Clause
// What of a model and an optimizer a checkpoint holds, under which names.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "smet/compact_adamw.h"
#include "smet/sparse_linear.h"
#include "src/checkpoint/folder.h"
#include "src/topology/engine.h"

namespace smet::checkpoint {

inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kOptimizerFile = "optimizer.safetensors";
inline constexpr const char* kRunFile = "run.safetensors";

using Tensors = std::map<std::string, at::Tensor>;
using Layers = std::vector<std::pair<std::string, std::shared_ptr<SparseLinearImpl>>>;

struct ModelTensors {
  Tensors tensors;                             // live parameters and buffers, each once
  std::map<std::string, std::string> aliases;  // other names of shared ones
  std::unordered_map<const void*, std::string> names;
};

// Parameters and buffers by name; `rank` of sparse layers, which is derived, is left out.
ModelTensors model_tensors(torch::nn::Module& model, const Layers& layers);

const char* dtype_code(at::ScalarType type);
at::ScalarType dtype_of(const std::string& code);
std::string hash_text(const at::Tensor& mask, std::int64_t cols);

// Options of a parameter group <-> the manifest's, with the names of Python's.
Json options_to_json(const CompactAdamWOptions& options);
// Keeps what the manifest cannot say (a custom age schedule, on_nonfinite). Throws for a missing option.
CompactAdamWOptions options_from_json(const Json& json, const CompactAdamWOptions& here);

// Explored bitmaps go to, and come from, `run`.
Json topology_to_json(const TopologyState& state, Tensors& run);
TopologyState topology_from_json(const Json& json);

}  // namespace smet::checkpoint
