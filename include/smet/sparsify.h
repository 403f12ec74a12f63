// SPDX-License-Identifier: BSD-3-Clause
// Looking at a sparse model: its layers and its bytes; convert.h makes one, distribution.h shares one density
// out over layers.
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
  // Of sparse layers: values; their gradients; exp_avg and exp_avg_sq, with master_weights master_low too;
  // births; mask and rank.
  std::int64_t weights = 0;
  std::int64_t gradients = 0;
  std::int64_t moments = 0;
  std::int64_t cohorts = 0;
  std::int64_t index = 0;
  // Of all other parameters.
  std::int64_t dense_weights = 0;
  std::int64_t dense_gradients = 0;
  std::int64_t dense_moments = 0;
  std::int64_t other = 0;               // birth tables
  std::int64_t dense_adamw = 0;         // of the whole model, were it dense under AdamW
  std::int64_t sparse_dense_adamw = 0;  // the sparse layers' part of that
  double formula = 0;  // of the sparse layers: (2w + 2m + 1) n + 0.129 per position, where alive

  // Sums of the above.
  std::int64_t sparse_total() const { return weights + gradients + moments + cohorts + index; }
  std::int64_t total() const {
    return sparse_total() + dense_weights + dense_gradients + dense_moments + other;
  }
  // total / dense_adamw, and sparse_total / formula - 1.
  double ratio() const { return static_cast<double>(total()) / static_cast<double>(dense_adamw); }
  double deviation() const { return static_cast<double>(sparse_total()) / formula - 1; }
};

// What `model` and `opt` (CompactAdamW, or torch's Adam or AdamW; null: no moments) keep from step to
// step, measured. Every storage counts once, in full. Call it between backward and zero_grad to see the
// gradients.
MemoryReport report(torch::nn::Module& model, torch::optim::Optimizer* opt = nullptr);

// One line per kind, then the sums.
std::ostream& operator<<(std::ostream& stream, const MemoryReport& report);

}  // namespace smet
