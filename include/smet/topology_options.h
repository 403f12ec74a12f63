// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/arg.h>

#include <cstdint>
#include <string>
#include <variant>

#include "smet/criteria.h"

namespace smet {

// When and how much a TopologyScheduler replaces (README, "The method"). For every sparse layer, at
// every t = optimizer steps done with t % interval == 0 and t < stop:
//   k = floor(f(t) * n), at most the number of inactive positions; prune k, grow k.
//
//   TopologyOptions().interval(100).fraction(0.2).total_steps(20000)
struct TopologyOptions {
  // What prune, grow and stop may be.
  using Prune = std::variant<std::string, PruneFunction>;
  using Grow = std::variant<std::string, GrowFunction>;
  using Stop = std::variant<double, std::int64_t>;

  // Optimizer steps between two updates, >= 1.
  TORCH_ARG(std::int64_t, interval) = 100;
  // Fraction of a layer's weights replaced by an update: at the first step and at step total_steps, in
  // [0, 1]; fraction_schedule (smet/schedules.h) is the curve between them.
  TORCH_ARG(double, fraction) = 0.2;
  TORCH_ARG(double, final_fraction) = 0.005;
  TORCH_ARG(std::string, fraction_schedule) = "cosine";
  // Where updates end: a double is a fraction of total_steps, in [0, 1], an integer a step.
  TORCH_ARG(Stop, stop) = 0.75;
  // Optimizer steps of the whole run, >= 1. Must be given.
  TORCH_ARG(std::int64_t, total_steps) = 0;
  // Criterion by name (prune_criteria(), grow_criteria()) or a function.
  TORCH_ARG(Prune, prune) = std::string("magnitude");
  TORCH_ARG(Grow, grow) = std::string("random");
  // Of everything random in the topology, together with layer name and update number; >= 0.
  TORCH_ARG(std::int64_t, seed) = 0;
  // Keep one bit per position to say which fraction was ever active.
  TORCH_ARG(bool, track_explored) = false;

 public:
  // Throws ValueError naming the option that is out of range.
  void check() const;

  // First step without an update: `stop`, or stop * total_steps rounded up.
  std::int64_t end_step() const;

  // f(t).
  double fraction_at(std::int64_t step) const;
};

}  // namespace smet
