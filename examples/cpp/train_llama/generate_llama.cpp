// SPDX-License-Identifier: BSD-3-Clause
// Loads the newest checkpoint of a run, without optimizer state, and continues the beginning of its held-out
// text.
#include <smet/checkpoint.h>

#include <cstdio>
#include <exception>

#include "generate.h"
#include "run_config.h"
#include "token_data.h"

namespace {

constexpr int64_t kPrompt = 32;

int run(const std::filesystem::path& folder, int64_t count, double temperature) {
  const llama::RunConfig config(folder);
  llama::Llama model(config.shape, config.sparsity());
  model.to(config.dtype());
  const auto found = smet::load_checkpoint(folder / "checkpoints", model);
  model.eval();

  const llama::TokenFile held_out(folder / "held_out.bin", config.shape.vocab, kPrompt);
  const auto start = held_out.read(0, kPrompt);
  {
    const torch::NoGradGuard no_grad;
    const auto [logits, tokens] = model.forward(start.unsqueeze(0))[0][-1].to(torch::kFloat).topk(5);
    std::printf("step %lld; the likeliest next tokens and their logits:", static_cast<long long>(found.step));
    for (int64_t i = 0; i < 5; ++i) {
      std::printf(" %lld %.9g", static_cast<long long>(tokens[i].item<int64_t>()), logits[i].item<float>());
    }
  }
  const std::vector<int64_t> prompt(start.const_data_ptr<int64_t>(),
                                    start.const_data_ptr<int64_t>() + kPrompt);
  const auto produced = llama::generate(model, prompt, count, {.temperature = temperature});
  std::printf("\ntokens:");
  for (const int64_t token : produced) std::printf(" %lld", static_cast<long long>(token));
  std::printf("\n%s\n", llama::text_of(produced, folder / "tokenizer.json").c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 4) {
    std::fprintf(stderr, "usage: generate_llama FOLDER [TOKENS [TEMPERATURE]]\n");
    return 2;
  }
  try {
    return run(argv[1], argc > 2 ? std::stoll(argv[2]) : 100, argc > 3 ? std::stod(argv[3]) : 0.8);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "generate_llama: %s\n", error.what());
    return 1;
  }
}
