// SPDX-License-Identifier: BSD-3-Clause
// TopologyScheduler: which weights exist changes every `interval` optimizer steps. The C++ twin of
// smet.TopologyScheduler, over the same engine.
#pragma once

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/serialize/archive.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "smet/topology_options.h"
#include "smet/topology_update.h"

namespace smet {

class TopologyEngine;  // src/topology/engine.h
struct TopologyState;

// Prunes and regrows the weights of every SparseLinear in a model while it trains:
//
//   loss.backward(); optimizer.step(); topology.step(); optimizer.zero_grad();
//
// At every t = optimizer steps done with t % interval == 0 and t < stop, in each layer of n weights:
// k = min(floor(f(t) n), inactive positions) weights with the lowest prune scores go, and k positions that
// were inactive before take their place with value 0, moments 0 and a new cohort. Survivors keep value,
// moments and gradient bit for bit; parameters, shapes and addresses stay. The result is a function of (seed,
// layer name, update number, weights) alone. Layers whose values do not require a gradient are left alone.
// Source: SMET, arXiv 2606.00888.
class TopologyScheduler {
 public:
  // Finds the layers by named_modules(). The optimizer's state of shape [n] moves with the values: that of
  // CompactAdamW (newborns get their own age) and of torch's Adam, AdamW and SGD. Both must outlive the
  // scheduler. Throws ValueError when an option is out of range, the model has no sparse layer, or the
  // optimizer does not hold the values of one that requires a gradient; nothing is changed then.
  TopologyScheduler(torch::nn::Module& model, torch::optim::Optimizer& opt, TopologyOptions options);
  // Without an optimizer there is no state to move.
  TopologyScheduler(torch::nn::Module& model, TopologyOptions options);
  ~TopologyScheduler();
  TopologyScheduler(TopologyScheduler&&) noexcept;
  TopologyScheduler& operator=(TopologyScheduler&&) noexcept;
  TopologyScheduler(const TopologyScheduler&) = delete;
  TopologyScheduler& operator=(const TopologyScheduler&) = delete;

  // Counts one optimizer step (none when the optimizer's own counter did not move) and, when it is due,
  // updates the topology; returns what that did. An exception changes nothing.
  std::optional<TopologyUpdate> step();

  // Optimizer steps counted so far; topology updates so far; what the last one did, if there was one.
  std::int64_t steps() const;
  std::int64_t updates() const;
  const std::optional<TopologyUpdate>& last_update() const;
  // 64-bit hash of all layers' positions.
  std::uint64_t hash() const;
  // Age (updates received since grown) -> number of weights. Initial weights, and those so old that their
  // cohort id was needed again, count as old as the layer. Throws ValueError for an unknown layer or without
  // cohorts.
  std::map<std::int64_t, std::int64_t> ages(const std::string& layer) const;

  // Counters, options and what is remembered per layer; positions belong to the model, ages to the optimizer.
  void save(torch::serialize::OutputArchive& archive) const;
  // Continues where save() was called. Throws ValueError naming the option or layer that differs from the
  // saved one; nothing is changed then.
  void load(torch::serialize::InputArchive& archive);

 private:
  friend const TopologyEngine& topology_engine(const TopologyScheduler& scheduler);
  friend void load_topology_state(TopologyScheduler& scheduler, TopologyState state);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace smet
