// SPDX-License-Identifier: BSD-3-Clause
// What a run remembers of itself: log.jsonl in the format of `smet pretrain`, and one printed line an event.
#pragma once

#include <smet/sparsify.h>
#include <smet/topology_update.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace llama {

// Mean loss per token in nats; bits per byte of the text, if its size is known.
struct Evaluation {
  double loss;
  int64_t tokens;
  std::optional<double> bits_per_byte;
};

class RunLog {
 public:
  using Json = nlohmann::ordered_json;

  // Continues folder/log.jsonl after `done` steps: events of later steps, which are done again, go. `silent`
  // for all processes but the first: nothing is written or printed.
  RunLog(const std::filesystem::path& folder, int64_t done, int64_t steps, int64_t tokens_per_step,
         int64_t print_every, bool silent);

  void start(const Json& config, int64_t vocab);
  void resume(int64_t done);
  void start_step() { started_ = std::chrono::steady_clock::now(); }
  void step(int64_t step, double loss, double lr, double grad_norm);
  void evaluated(int64_t step, const Evaluation& result);
  void topology(int64_t step, const smet::TopologyUpdate& update);
  void measured(const smet::MemoryReport& report);
  void end(const std::string& topology_hash);
  // Flushes the log to the disk: a checkpoint must not know of steps that the log has lost.
  void sync();
  void line(const std::string& text);

 private:
  void write(Json event);

  std::filesystem::path path_;
  std::ofstream file_;
  int64_t steps_, tokens_per_step_, print_every_;
  bool silent_;
  std::chrono::steady_clock::time_point started_;
  std::vector<double> losses_, seconds_;
  Json last_evaluation_ = Json::object();
};

std::string hash_text(uint64_t hash);

}  // namespace llama
