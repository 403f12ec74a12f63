// SPDX-License-Identifier: BSD-3-Clause
// What a run is: run.json and model/config.json of the folder that `smet pretrain --prepare` writes.
#pragma once

#include <smet/compact_adamw.h>
#include <smet/topology_options.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "llama.h"

namespace llama {

// The options of `smet pretrain`, under its names; python/smet/train/config.py says what they mean.
class RunConfig {
 public:
  // Throws std::runtime_error naming a file that is missing, or an option that this trainer does not have.
  explicit RunConfig(const std::filesystem::path& folder);

  // An option; `text` and `whole` for strings and integers. Throws where it is missing or null.
  double number(const char* option) const { return at(option).get<double>(); }
  int64_t whole(const char* option) const { return at(option).get<int64_t>(); }
  std::string text(const char* option) const { return at(option).get<std::string>(); }
  bool has(const char* option) const { return options.contains(option) && !options[option].is_null(); }

  bool sparse() const { return text("method") != "dense"; }
  bool dynamic() const { return sparse() && text("method") != "static"; }
  c10::ScalarType dtype() const;
  Sparsity sparsity() const;
  smet::CompactAdamWOptions optimizer() const;
  smet::TopologyOptions topology() const;
  // Part of the peak learning rate after `done` steps: linear warm-up, then a cosine to lr_final.
  double lr_factor(int64_t done) const;
  // The learning rate of step `done` + 1.
  double lr(int64_t done) const { return number("lr") * lr_factor(done); }

  // Throws unless a checkpoint's own options are these, where they change what is computed.
  void check_same(const nlohmann::json& saved) const;

  nlohmann::json options;
  Shape shape;
  std::string data_fingerprint;           // of the tokens, as Python's checkpoints carry it
  std::optional<int64_t> held_out_bytes;  // text that the held-out tokens stand for, if known

 private:
  const nlohmann::json& at(const char* option) const;
};

}  // namespace llama
