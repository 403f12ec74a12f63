// SPDX-License-Identifier: BSD-3-Clause
// Looking at a sparse model: its layers and its bytes; distribution.h shares one density out over layers.
//
// In C++ a module's member has a fixed type, so a layer is made sparse where it is declared (SparseLinear in
// place of Linear, SparseLinear::from_linear to take over weights); there is no sparsify_ as in Python.
#pragma once

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "smet/distribution.h"
#include "smet/sparse_linear.h"

namespace smet {

// (name, layer) of every SparseLinear in `model`, in the order of named_modules(). The name of the model
// itself is "". Pointers to a model that lives on the stack do not keep it alive.
std::vector<std::pair<std::string, std::shared_ptr<SparseLinearImpl>>> sparse_layers(
    torch::nn::Module& model);

// Bytes of the storages that are alive, by kind. Python's smet.report has the same fields.
struct MemoryReport {
  std::int64_t weights = 0, gradients = 0, moments = 0, cohorts = 0, index = 0;  // sparse layers
  std::int64_t dense_weights = 0, dense_gradients = 0, dense_moments = 0;        // all other parameters
  std::int64_t other = 0;                                                        // birth tables
  std::int64_t dense_adamw = 0, sparse_dense_adamw = 0;  // all layers, the sparse ones: dense under AdamW
  double formula = 0;  // of the sparse layers: (2w + 2m + 1) n + 0.129 per position, where alive

  std::int64_t sparse_total() const { return weights + gradients + moments + cohorts + index; }
  std::int64_t total() const {
    return sparse_total() + dense_weights + dense_gradients + dense_moments + other;
  }
  double ratio() const { return static_cast<double>(total()) / static_cast<double>(dense_adamw); }
  double deviation() const { return static_cast<double>(sparse_total()) / formula - 1; }
};

// What `model` and `optimizer` (CompactAdamW, or torch's Adam or AdamW; null: no moments) keep from step to
// step, measured. Every storage counts once, in full. Call it between backward and zero_grad to see the
// gradients.
MemoryReport report(torch::nn::Module& model, torch::optim::Optimizer* optimizer = nullptr);

std::ostream& operator<<(std::ostream& stream, const MemoryReport& report);

}  // namespace smet
