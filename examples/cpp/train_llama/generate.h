// SPDX-License-Identifier: BSD-3-Clause
// Text from a model: drawing tokens, and tokens as text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "llama.h"

namespace llama {

struct Sampling {
  double temperature = 0.8;  // 0: the likeliest token each time
  int64_t top_k = 50;        // draw among so many likeliest tokens
  uint64_t seed = 0;
};

// Up to `count` tokens after `prompt`, drawn with a generator of its own; fewer where the model has no more
// positions.
std::vector<int64_t> generate(Llama& model, std::vector<int64_t> prompt, int64_t count, const Sampling& how);

// The text of tokens, by the vocabulary of a byte-level tokenizer.json, in which every byte is one printable
// character (Radford et al. 2019). Without the file: the ids.
std::string text_of(const std::vector<int64_t>& tokens, const std::filesystem::path& tokenizer);

}  // namespace llama
