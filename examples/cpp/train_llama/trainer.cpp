// SPDX-License-Identifier: BSD-3-Clause
#include "trainer.h"

#include <cmath>
#include <stdexcept>

namespace llama {

using torch::Tensor;

Trainer::Trainer(const std::filesystem::path& folder, const RunConfig& config, Processes& processes)
    : checkpoints_(folder / "checkpoints"),
      config_(config),
      processes_(processes),
      train_(folder / "train.bin", config.shape.vocab, config.whole("seq") + 1),
      held_out_(folder / "held_out.bin", config.shape.vocab, 2),
      batches_(train_, config.whole("seq"), config.whole("batch"),
               static_cast<uint64_t>(config.whole("seed"))),
      model_(config.shape, config.sparsity()) {
  const int64_t seed = config_.whole("seed");
  model_.initialize(static_cast<uint64_t>(seed));
  model_.to(config_.dtype());
  optimizer_.emplace(model_.named_parameters(), config_.optimizer());
  if (config_.dynamic()) topology_.emplace(model_, *optimizer_, config_.topology());
  torch::manual_seed(static_cast<uint64_t>(seed + processes_.rank()));  // dropout's; smet draws from none
  load();
}

bool Trainer::run(RunLog& log, const std::function<bool()>& should_stop) {
  const int64_t steps = config_.whole("steps"), eval_every = config_.whole("eval_every");
  const int64_t save_every = config_.whole("save_every");
  bool stopped = false;
  for (const int64_t first = done_ + 1; done_ < steps && !stopped;) {
    const int64_t step = done_ + 1;
    log.start_step();
    const double loss = processes_.mean(backward_passes(step));
    const double norm = clip(step);
    const double lr = config_.lr(done_);
    optimizer_->step();
    done_ = step;
    set_lr(config_.lr(done_));
    if (step == first) log.measured(smet::report(model_, &*optimizer_));
    log.step(step, loss, lr, norm);

    if (step == steps || (eval_every > 0 && step % eval_every == 0)) {
      // Before the topology changes: just after it, newborn weights are still zero.
      processes_.on_main([&] { log.evaluated(step, evaluate()); });
    }
    update_topology(log);
    optimizer_->zero_grad();
    stopped = processes_.any(should_stop()) && step < steps;
    if (step != saved_ && (stopped || (save_every > 0 && step % save_every == 0))) {
      processes_.on_main([&] {
        log.sync();
        save();
      });
    }
  }
  log.end(topology_ ? hash_text(topology_->hash()) : "");
  return !stopped;
}

int64_t Trainer::sequences_per_step() const {
  return config_.whole("batch") * config_.whole("accumulate") * processes_.world();
}

// All backward passes of a step, and the mean of their gradients over the processes; the loss on this
// process's batches: every world-th, from its rank on.
double Trainer::backward_passes(int64_t step) {
  const int64_t parts = config_.whole("accumulate");
  double sum = 0;
  for (int64_t part = (step - 1) * parts; part < step * parts; ++part) {
    const auto batch = batches_[part * processes_.world() + processes_.rank()];
    const auto loss = next_token_loss(model_, batch) / parts;
    const auto value = loss.item<double>();
    if (processes_.any(!std::isfinite(value))) {
      throw std::runtime_error("the loss is " + std::to_string(value) + " at step " + std::to_string(step) +
                               "; stopped before the update. Try a smaller lr");
    }
    loss.backward();
    sum += value;
  }
  std::vector<Tensor> gradients;
  for (const auto& parameter : model_.parameters()) gradients.push_back(parameter.grad());
  processes_.mean_(gradients);  // compact: of active weights alone
  return sum;
}

// Scales all gradients so that their norm is at most the option clip (0: leaves them); the norm before.
double Trainer::clip(int64_t step) {
  const torch::NoGradGuard no_grad;
  std::vector<Tensor> gradients;
  for (const auto& parameter : model_.parameters()) gradients.push_back(parameter.grad());
  const auto norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients, 2)), 2);
  if (!std::isfinite(norm.item<double>())) {
    throw std::runtime_error("the norm of the gradient is not finite at step " + std::to_string(step) +
                             "; stopped before the update");
  }
  if (const double largest = config_.number("clip"); largest > 0) {
    at::_foreach_mul_(gradients, at::clamp_max(largest / (norm + 1e-6), 1));
  }
  return norm.item<double>();
}

void Trainer::set_lr(double lr) {
  for (auto& group : optimizer_->param_groups()) group.options().set_lr(lr);
}

// Every held-out token after the first is predicted once; sums are weighted by tokens, in float64.
Evaluation Trainer::evaluate() {
  const torch::NoGradGuard no_grad;
  model_.eval();
  double nats = 0;
  for (const auto& batch : evaluation_batches(held_out_, config_.whole("seq"), config_.whole("eval_batch"))) {
    nats += next_token_loss(model_, batch, "none").to(torch::kDouble).sum().item<double>();
  }
  model_.train();
  const int64_t tokens = held_out_.size() - 1;
  std::optional<double> bits;
  if (config_.held_out_bytes) bits = nats / std::log(2.0) / static_cast<double>(*config_.held_out_bytes);
  return {nats / static_cast<double>(tokens), tokens, bits};
}

// Without a word between the processes: what is pruned and grown follows from seed, names and weights. They
// only compare the hash of the result.
void Trainer::update_topology(RunLog& log) {
  if (!topology_) return;
  const auto update = topology_->step();
  if (!update) return;
  if (!processes_.equal(update->hash)) {
    throw std::runtime_error("the processes disagree on the topology after step " + std::to_string(done_));
  }
  grown_at_ = done_;
  log.topology(done_, *update);
}

void Trainer::load() {
  const auto newest = smet::latest_checkpoint(checkpoints_);
  if (!newest) return;
  const auto found = smet::load_checkpoint(*newest, model_, &*optimizer_, topology_ ? &*topology_ : nullptr);
  const auto extra = nlohmann::json::parse(found.run.state).at("extra");
  config_.check_same(extra.at("config"));
  const bool other_batch = found.step > 0 && extra.at("sequences_per_step") != sequences_per_step();
  if (other_batch || extra.at("data") != config_.data_fingerprint) {
    throw std::runtime_error(*newest +
                             " was saved by a run on other data, or of another number of sequences "
                             "(batch x accumulate x processes) a step");
  }
  if (const auto& at = extra.at("probe").at("grown_at"); at.is_number()) grown_at_ = at.get<int64_t>();
  carried_ = found.run.tensors;
  done_ = saved_ = found.step;
}

// With what Python's trainer needs to go on: its configuration, the position in the data, and the state of
// its torch.optim.lr_scheduler.LambdaLR.
void Trainer::save() {
  const auto probe_at = grown_at_ ? nlohmann::json(*grown_at_) : nlohmann::json();
  const nlohmann::json state = {
      {"extra",
       {{"config", config_.options},
        {"data", config_.data_fingerprint},
        {"sequences_per_step", sequences_per_step()},
        {"sequences", done_ * sequences_per_step()},
        {"probe", {{"grown_at", probe_at}, {"update", topology_ ? topology_->updates() : 0}}}}},
      {"lr_scheduler",
       {{"base_lrs", {config_.number("lr")}},
        {"last_epoch", done_},
        {"_step_count", done_ + 1},
        {"_get_lr_called_within_step", false},
        {"_is_initial", false},
        {"_last_lr", {config_.lr(done_)}},
        {"lr_lambdas", {nullptr}}}},
      {"scaler", nullptr}};
  smet::SaveOptions options;
  options.step = done_;
  options.keep = config_.whole("keep");
  options.run = {.state = state.dump(), .tensors = carried_};
  smet::save_checkpoint(checkpoints_, model_, &*optimizer_, topology_ ? &*topology_ : nullptr, options);
  saved_ = done_;
}

}  // namespace llama
