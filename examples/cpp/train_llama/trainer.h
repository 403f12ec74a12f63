// SPDX-License-Identifier: BSD-3-Clause
// One training run: model, optimizer, topology, data, and the loop over them.
#pragma once

#include <smet/smet.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "llama.h"
#include "processes.h"
#include "run_config.h"
#include "run_log.h"
#include "token_data.h"

namespace llama {

class Trainer {
 public:
  // Builds the run of `folder`, and loads its newest checkpoint if there is one.
  Trainer(const std::filesystem::path& folder, const RunConfig& config, Processes& processes);

  // Trains to the last step, or until `should_stop`, which is asked after every step; a run that stops early
  // is saved. Returns whether it came to its end.
  bool run(RunLog& log, const std::function<bool()>& should_stop);

  int64_t steps_done() const { return done_; }
  int64_t tokens_per_step() const { return sequences_per_step() * config_.whole("seq"); }
  Llama& model() { return model_; }
  const TokenFile& held_out() const { return held_out_; }

 private:
  int64_t sequences_per_step() const;
  double backward_passes(int64_t step);
  double clip(int64_t step);
  void set_lr(double lr);
  Evaluation evaluate();
  void update_topology(RunLog& log);
  void load();
  void save();

  std::filesystem::path checkpoints_;
  const RunConfig& config_;
  Processes& processes_;
  TokenFile train_, held_out_;
  Batches batches_;
  Llama model_;
  std::optional<smet::CompactAdamW> optimizer_;
  std::optional<smet::TopologyScheduler> topology_;
  std::map<std::string, torch::Tensor> carried_;  // of a checkpoint, what only Python understands
  int64_t done_ = 0, saved_ = -1;
  std::optional<int64_t> grown_at_;  // the last topology update, for Python's probe of newborn weights
};

}  // namespace llama
