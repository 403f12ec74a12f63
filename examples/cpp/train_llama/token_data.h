// SPDX-License-Identifier: BSD-3-Clause
// Tokens: .bin files, the training batches in Python's order, and the windows of an evaluation.
#pragma once

#include <torch/torch.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace llama {

// A file of raw tokens, little-endian: uint16, or uint32 where the vocabulary needs it; mapped, not read.
class TokenFile {
 public:
  // Throws std::runtime_error when it is missing, odd in size, shorter than `least` tokens, or holds a token
  // outside [0, vocab).
  TokenFile(const std::filesystem::path& path, int64_t vocab, int64_t least);
  int64_t size() const { return tokens_.size(0); }
  // int64 [count] from `start` on.
  torch::Tensor read(int64_t start, int64_t count) const;

 private:
  torch::Tensor tokens_;  // uint16 or int32
};

// numpy.random.default_rng([seed, epoch]).permutation(count): SeedSequence and PCG64 (O'Neill 2014), and a
// Fisher-Yates shuffle from the end. count < 2^32.
std::vector<int64_t> numpy_permutation(uint64_t seed, uint64_t epoch, int64_t count);

// Training sequences in random order: batch i is a function of (tokens, seq, batch, seed, i). The tokens are
// cut into windows of seq + 1 that overlap by one; each epoch visits all of them in an order of its own.
class Batches {
 public:
  Batches(const TokenFile& tokens, int64_t seq, int64_t batch, uint64_t seed)
      : tokens_(tokens), seq_(seq), batch_(batch), windows_((tokens.size() - 1) / seq), seed_(seed) {}
  torch::Tensor operator[](int64_t index);  // int64 [batch, seq + 1]

 private:
  const TokenFile& tokens_;
  int64_t seq_, batch_, windows_;
  uint64_t seed_;
  int64_t epoch_ = -1;
  std::vector<int64_t> order_;
};

// All windows of `tokens` in order, int64 [<= batch, seq + 1] each, then the shorter last one by itself.
std::vector<torch::Tensor> evaluation_batches(const TokenFile& tokens, int64_t seq, int64_t batch);

}  // namespace llama
