// SPDX-License-Identifier: BSD-3-Clause
#include "generate.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

namespace llama {
namespace {

int64_t draw(const torch::Tensor& logits, const Sampling& how, at::Generator& generator) {  // [vocab]
  if (how.temperature == 0) return logits.argmax().item<int64_t>();
  const auto [best, index] = logits.topk(std::min(how.top_k, logits.size(0)));
  const auto chances = torch::softmax(best / how.temperature, 0);
  return index[at::multinomial(chances, 1, false, generator).item<int64_t>()].item<int64_t>();
}

// The code points of UTF-8 text.
std::vector<uint32_t> code_points(const std::string& text) {
  std::vector<uint32_t> found;
  for (const char character : text) {
    const auto byte = static_cast<uint8_t>(character);
    if (byte < 0x80) {
      found.push_back(byte);
    } else if (byte >= 0xC0) {
      found.push_back(byte & (byte >= 0xF0 ? 0x07U : byte >= 0xE0 ? 0x0FU : 0x1FU));
    } else {
      found.back() = found.back() << 6 | (byte & 0x3FU);
    }
  }
  return found;
}

// Character -> byte. Printable bytes of Latin-1 are themselves, the others U+0100 and on, in order.
std::map<uint32_t, char> byte_characters() {
  std::map<uint32_t, char> bytes;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    bytes[printable ? byte : next++] = static_cast<char>(byte);
  }
  return bytes;
}

}  // namespace

std::vector<int64_t> generate(Llama& model, std::vector<int64_t> prompt, int64_t count, const Sampling& how) {
  const torch::NoGradGuard no_grad;
  const bool was_training = model.is_training();
  model.eval();
  auto generator = at::make_generator<at::CPUGeneratorImpl>(how.seed);
  const auto given = prompt.size();
  while (count-- > 0 && static_cast<int64_t>(prompt.size()) < model.shape.positions) {
    const auto logits = model.forward(torch::tensor(prompt).unsqueeze(0));  // every position again: no cache
    prompt.push_back(draw(logits[0][-1].to(torch::kFloat), how, generator));
  }
  model.train(was_training);
  prompt.erase(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(given));
  return prompt;
}

std::string text_of(const std::vector<int64_t>& tokens, const std::filesystem::path& tokenizer) {
  std::string text;
  std::ifstream file(tokenizer);
  if (!file) {
    for (const int64_t token : tokens) text += std::to_string(token) + " ";
    return text;
  }
  std::map<int64_t, std::string> pieces;
  const auto json = nlohmann::json::parse(file);
  for (const auto& [piece, id] : json.at("model").at("vocab").items()) pieces[id.get<int64_t>()] = piece;
  for (const auto& added : json.at("added_tokens")) pieces.erase(added.at("id").get<int64_t>());
  const auto bytes = byte_characters();
  for (const int64_t token : tokens) {
    for (const uint32_t character : code_points(pieces[token])) text += bytes.at(character);
  }
  return text;
}

}  // namespace llama
