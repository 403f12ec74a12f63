// SPDX-License-Identifier: BSD-3-Clause
// Trains the LLaMA of a folder that `smet pretrain --prepare` wrote, as `smet pretrain` itself would:
//
//   smet pretrain --prepare --out runs/cpp --model 9m --steps 300
//   train_llama runs/cpp
//
// Started again, it continues from the newest checkpoint; so does `smet pretrain --resume auto`. In several
// processes: torchrun --no-python --nproc-per-node 2 train_llama runs/cpp.
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>

#include "generate.h"
#include "trainer.h"

namespace {

volatile std::sig_atomic_t stop_signal = 0;

// SIGTERM and Ctrl-C save a checkpoint after this step, then stop; the same signal again stops at once.
extern "C" void on_signal(int number) {
  stop_signal = number;
  std::signal(number, SIG_DFL);
}

void write_sample(const std::filesystem::path& folder, const llama::RunConfig& config,
                  llama::Trainer& trainer) {
  const auto& tokens = trainer.held_out();
  const auto start = tokens.read(0, std::min<int64_t>(32, tokens.size()));
  const std::vector<int64_t> prompt(start.const_data_ptr<int64_t>(),
                                    start.const_data_ptr<int64_t>() + start.numel());
  const auto produced = llama::generate(trainer.model(), prompt, config.whole("sample_tokens"),
                                        {.seed = static_cast<uint64_t>(config.whole("seed"))});
  const auto text = llama::text_of(produced, folder / "tokenizer.json");
  std::ofstream(folder / "sample.txt") << llama::text_of(prompt, folder / "tokenizer.json") << text;
  std::printf("sample:\n%s\n", text.c_str());
}

int run(const std::filesystem::path& folder) {
  const llama::RunConfig config(folder);
  if (config.has("threads")) torch::set_num_threads(static_cast<int>(config.whole("threads")));
  llama::Processes processes;
  llama::Trainer trainer(folder, config, processes);
  llama::RunLog log(folder, trainer.steps_done(), config.whole("steps"), trainer.tokens_per_step(),
                    config.whole("print_every"), !processes.is_main());
  if (trainer.steps_done() > 0) {
    log.resume(trainer.steps_done());
  } else {
    log.start(config.options, config.shape.vocab);
  }
  std::signal(SIGTERM, on_signal);
  std::signal(SIGINT, on_signal);
  if (!trainer.run(log, [] { return stop_signal != 0; }))
    return 128 + (stop_signal != 0 ? stop_signal : SIGTERM);
  if (processes.is_main() && config.whole("sample_tokens") > 0) write_sample(folder, config, trainer);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr,
                 "usage: train_llama FOLDER\nFOLDER: what `smet pretrain --prepare --out FOLDER` wrote\n");
    return 2;
  }
  try {
    return run(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "train_llama: %s\n", error.what());
    return 1;
  }
}
