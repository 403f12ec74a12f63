// SPDX-License-Identifier: BSD-3-Clause
#include "run_log.h"

#include <fcntl.h>
#include <smet/version.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <numeric>

namespace llama {
namespace {

using Json = RunLog::Json;

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...) {
  char text[512];
  va_list values;
  va_start(values, pattern);
  std::vsnprintf(text, sizeof(text), pattern, values);
  va_end(values);
  return text;
}

// A field of /proc/self/status in bytes: VmRSS, VmHWM (its peak).
int64_t memory_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string name; status >> name;) {
    int64_t kilobytes = 0;
    if (name == field + ":" && status >> kilobytes) return kilobytes * 1024;
    status.ignore(1 << 16, '\n');
  }
  return 0;
}

double median(std::vector<double> values) {
  if (values.empty()) return std::nan("");
  std::sort(values.begin(), values.end());
  const auto middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Json versions() {
  return {{"smet", smet::version()}, {"torch", TORCH_VERSION}};
}

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

}  // namespace

std::string hash_text(uint64_t hash) {
  return format("%016llx", static_cast<unsigned long long>(hash));
}

RunLog::RunLog(const std::filesystem::path& folder, int64_t done, int64_t steps, int64_t tokens_per_step,
               int64_t print_every, bool silent)
    : path_(folder / "log.jsonl"),
      steps_(steps),
      tokens_per_step_(tokens_per_step),
      print_every_(print_every),
      silent_(silent) {
  if (silent_) return;
  std::vector<std::string> kept;
  std::ifstream before(path_);
  for (std::string text; done > 0 && std::getline(before, text) && !before.eof();) {  // not a line cut off
    const auto event = Json::parse(text);
    if (event.at("event") == "end" || event.value("step", int64_t{0}) > done) continue;
    kept.push_back(text);
    if (event["event"] == "eval") last_evaluation_ = event;
    if (event["event"] != "step") continue;
    losses_.push_back(event["loss"].is_number() ? event["loss"].get<double>() : std::nan(""));
    seconds_.push_back(event["seconds"]);
  }
  const auto partial = path_.string() + ".partial";
  std::ofstream rewritten(partial);
  for (const auto& text : kept) rewritten << text << "\n";
  rewritten.close();
  std::filesystem::rename(partial, path_);
  file_.open(path_, std::ios::app);
  file_.exceptions(std::ios::failbit | std::ios::badbit);
}

void RunLog::write(Json event) {
  if (silent_) return;
  for (auto& value : event) {  // JSON has no NaN and no infinity; Python writes them so
    if (value.is_number_float() && !std::isfinite(value.get<double>())) {
      const auto number = value.get<double>();
      value = std::isnan(number) ? "nan" : number > 0 ? "inf" : "-inf";
    }
  }
  file_ << event.dump() << "\n" << std::flush;
}

void RunLog::line(const std::string& text) {
  if (!silent_) std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

void RunLog::start(const Json& config, int64_t vocab) {
  write({{"event", "start"}, {"config", config}, {"versions", versions()}, {"vocab", vocab}});
}

void RunLog::resume(int64_t done) {
  write({{"event", "resume"}, {"step", done}, {"versions", versions()}});
  line(format("resuming after step %lld", static_cast<long long>(done)));
}

void RunLog::step(int64_t step, double loss, double lr, double grad_norm) {
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - started_;
  const double seconds = passed.count(), rate = static_cast<double>(tokens_per_step_) / seconds;
  losses_.push_back(loss);
  seconds_.push_back(seconds);
  const auto recent = std::min<size_t>(20, seconds_.size());
  const double left = median({seconds_.end() - static_cast<std::ptrdiff_t>(recent), seconds_.end()}) *
                      static_cast<double>(steps_ - step);
  const int64_t resident = memory_bytes("VmRSS");
  write({{"event", "step"},
         {"step", step},
         {"loss", loss},
         {"lr", lr},
         {"grad_norm", grad_norm},
         {"tokens", step * tokens_per_step_},
         {"seconds", seconds},
         {"tokens_per_second", rate},
         {"rss_bytes", resident},
         {"seconds_left", left}});
  if (step % print_every_ != 0 && step != 1 && step != steps_) return;
  const auto whole = std::lround(left);
  line(format("step %lld/%lld  loss %.3f  lr %.2e  norm %.2f  %.0f tok/s  %.0f MB  %ld:%02ld left",
              static_cast<long long>(step), static_cast<long long>(steps_), loss, lr, grad_norm, rate,
              static_cast<double>(resident) / 1e6, whole / 60, whole % 60));
}

void RunLog::evaluated(int64_t step, const Evaluation& result) {
  const double perplexity = std::exp(result.loss);
  last_evaluation_ = {{"event", "eval"},
                      {"step", step},
                      {"val_loss", result.loss},
                      {"val_perplexity", perplexity},
                      {"val_bits_per_byte", or_null(result.bits_per_byte)},
                      {"tokens", result.tokens}};
  write(last_evaluation_);
  const auto bits = result.bits_per_byte ? format("  %.4f bits per byte", *result.bits_per_byte) : "";
  line(format("step %lld/%lld  held-out loss %.4f  perplexity %.2f%s", static_cast<long long>(step),
              static_cast<long long>(steps_), result.loss, perplexity, bits.c_str()));
}

void RunLog::topology(int64_t step, const smet::TopologyUpdate& update) {
  write({{"event", "topology"},
         {"step", step},
         {"update", update.update},
         {"fraction", update.fraction},
         {"density", update.density()},
         {"replaced", update.k()},
         {"churn", update.churn()},
         {"last_cohort_pruned", or_null(update.last_cohort_pruned())},
         {"nan_scores", update.nan_count()},
         {"explored", or_null(update.explored())},
         {"hash", hash_text(update.hash)}});
  line(format("step %lld/%lld  topology update %lld: %lld weights replaced (%.1f %%)",
              static_cast<long long>(step), static_cast<long long>(steps_),
              static_cast<long long>(update.update), static_cast<long long>(update.k()),
              100 * update.churn()));
}

void RunLog::measured(const smet::MemoryReport& report) {
  write({{"event", "state_bytes"},
         {"total", report.total()},
         {"weights", report.weights},
         {"gradients", report.gradients},
         {"moments", report.moments},
         {"cohorts", report.cohorts},
         {"index", report.index},
         {"dense_weights", report.dense_weights},
         {"dense_gradients", report.dense_gradients},
         {"dense_moments", report.dense_moments},
         {"other", report.other}});
  if (report.sparse_dense_adamw == 0) return;
  line(format(
      "sparse layers: %.2f MB of weights, gradients, optimizer state and index, %.1f %% of dense AdamW's",
      static_cast<double>(report.sparse_total()) / 1e6,
      100.0 * static_cast<double>(report.sparse_total()) / static_cast<double>(report.sparse_dense_adamw)));
}

void RunLog::end(const std::string& topology_hash) {
  const auto steps = losses_.size();
  const auto last = static_cast<std::ptrdiff_t>(std::min<size_t>(20, steps));
  const double train = std::accumulate(losses_.end() - last, losses_.end(), 0.0) / static_cast<double>(last);
  const std::vector<double> warm(seconds_.begin() + (steps > 2 ? 2 : 0), seconds_.end());
  write({{"event", "end"},
         {"steps", steps},
         {"interrupted", static_cast<int64_t>(steps) < steps_},
         {"train_loss", train},
         {"val_loss", last_evaluation_.value("val_loss", Json())},
         {"val_bits_per_byte", last_evaluation_.value("val_bits_per_byte", Json())},
         {"topology_hash", topology_hash.empty() ? Json() : Json(topology_hash)},
         {"seconds_per_step", median(warm)},
         {"peak_rss_bytes", memory_bytes("VmHWM")},
         {"versions", versions()}});
}

void RunLog::sync() {
  if (silent_) return;
  const int descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0 || ::fsync(descriptor) != 0) {
    throw std::filesystem::filesystem_error("cannot flush", path_,
                                            std::error_code(errno, std::generic_category()));
  }
  ::close(descriptor);
}

}  // namespace llama
