// SPDX-License-Identifier: BSD-3-Clause
#include "token_data.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace llama {
namespace {

// PCG64 (XSL-RR, 128 bits of state) as NumPy seeds it from a list of integers.
class Pcg64 {
 public:
  explicit Pcg64(const std::vector<uint32_t>& entropy) {
    const auto words = seed_words(entropy);
    const auto wide = [&](size_t i) {  // the first word is the high half; words are pairs of 32 bits
      const auto word = [&](size_t j) { return static_cast<uint64_t>(words[j + 1]) << 32 | words[j]; };
      return static_cast<unsigned __int128>(word(i)) << 64 | word(i + 2);
    };
    increment_ = wide(4) << 1 | 1;
    state_ = (increment_ + wide(0)) * kMultiplier + increment_;
  }

  uint32_t next32() {  // the low half of a draw, then its high half
    if (std::exchange(has_half_, !has_half_)) return half_;
    state_ = state_ * kMultiplier + increment_;
    const auto folded = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
    const auto drawn = std::rotr(folded, static_cast<int>(state_ >> 122));
    half_ = static_cast<uint32_t>(drawn >> 32);
    return static_cast<uint32_t>(drawn);
  }

  uint32_t up_to(uint32_t largest) {  // uniform in [0, largest]: the lowest bits, drawn again while too large
    const auto bits = static_cast<uint32_t>(std::bit_ceil(uint64_t{largest} + 1) - 1);
    uint32_t drawn = next32() & bits;
    while (drawn > largest) drawn = next32() & bits;
    return drawn;
  }

 private:
  static constexpr auto kMultiplier =
      static_cast<unsigned __int128>(2549297995355413924ULL) << 64 | 4865540595714422341ULL;

  // NumPy's SeedSequence: the entropy is hashed into a pool of four words, and the pool into eight.
  static std::array<uint32_t, 8> seed_words(const std::vector<uint32_t>& entropy) {
    uint32_t constant = 0x43b0d7e5;
    const auto hash = [&](uint32_t value, uint32_t multiplier) {
      value ^= constant;
      constant *= multiplier;
      value *= constant;
      return value ^ value >> 16;
    };
    const auto mix = [](uint32_t a, uint32_t b) {
      const uint32_t mixed = 0xca01f9dd * a - 0x4973f715 * b;
      return mixed ^ mixed >> 16;
    };
    std::array<uint32_t, 4> pool{};
    for (size_t i = 0; i < 4; ++i) pool[i] = hash(i < entropy.size() ? entropy[i] : 0, 0x931e8875);
    for (size_t from = 0; from < 4; ++from) {
      for (size_t to = 0; to < 4; ++to) {
        if (from != to) pool[to] = mix(pool[to], hash(pool[from], 0x931e8875));
      }
    }
    constant = 0x8b51f9dd;
    std::array<uint32_t, 8> words{};
    for (size_t i = 0; i < 8; ++i) words[i] = hash(pool[i % 4], 0x58f38ded);
    return words;
  }

  unsigned __int128 state_ = 0, increment_ = 0;
  uint32_t half_ = 0;
  bool has_half_ = false;
};

}  // namespace

TokenFile::TokenFile(const std::filesystem::path& path, int64_t vocab, int64_t least) {
  const auto type = vocab <= 1 << 16 ? torch::kUInt16 : torch::kUInt32;
  const auto width = static_cast<int64_t>(c10::elementSize(type));
  std::error_code missing;
  const auto bytes = static_cast<int64_t>(std::filesystem::file_size(path, missing));
  if (missing) throw std::runtime_error(path.string() + ": " + missing.message());
  if (bytes % width != 0 || bytes / width < least) {
    throw std::runtime_error(path.string() + " has " + std::to_string(bytes) + " bytes; expected at least " +
                             std::to_string(least) + " tokens of " + std::to_string(width));
  }
  tokens_ = torch::from_file(path.string(), /*shared=*/false, bytes / width, type);
  constexpr int64_t kPiece = 1 << 24;
  for (int64_t start = 0; start < size(); start += kPiece) {
    const auto largest = read(start, std::min(kPiece, size() - start)).max().item<int64_t>();
    if (largest >= vocab) {
      throw std::runtime_error(path.string() + " holds token " + std::to_string(largest) +
                               ", which is not in the vocabulary of " + std::to_string(vocab));
    }
  }
}

torch::Tensor TokenFile::read(int64_t start, int64_t count) const {
  return tokens_.slice(0, start, start + count).to(torch::kLong);
}

std::vector<int64_t> numpy_permutation(uint64_t seed, uint64_t epoch, int64_t count) {
  std::vector<uint32_t> entropy;
  for (const uint64_t number : {seed, epoch}) {  // each as the 32-bit words it needs
    entropy.push_back(static_cast<uint32_t>(number));
    if (number >> 32 != 0) entropy.push_back(static_cast<uint32_t>(number >> 32));
  }
  Pcg64 generator(entropy);
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i-- > 1;) {
    std::swap(order[i], order[generator.up_to(static_cast<uint32_t>(i))]);
  }
  return order;
}

torch::Tensor Batches::operator[](int64_t index) {
  std::vector<torch::Tensor> rows;
  for (int64_t number = index * batch_; number < (index + 1) * batch_; ++number) {
    if (const int64_t epoch = number / windows_; epoch != std::exchange(epoch_, epoch)) {
      order_ = numpy_permutation(seed_, static_cast<uint64_t>(epoch), windows_);
    }
    rows.push_back(tokens_.read(order_[static_cast<size_t>(number % windows_)] * seq_, seq_ + 1));
  }
  return torch::stack(rows);
}

std::vector<torch::Tensor> evaluation_batches(const TokenFile& tokens, int64_t seq, int64_t batch) {
  const int64_t full = (tokens.size() - 1) / seq;
  std::vector<torch::Tensor> result;
  for (int64_t first = 0; first < full; first += batch) {
    std::vector<torch::Tensor> rows;
    for (int64_t row = first; row < std::min(first + batch, full); ++row) {
      rows.push_back(tokens.read(row * seq, seq + 1));
    }
    result.push_back(torch::stack(rows));
  }
  const auto rest = tokens.read(full * seq, tokens.size() - full * seq);
  if (rest.size(0) > 1) result.push_back(rest.unsqueeze(0));
  return result;
}

}  // namespace llama
