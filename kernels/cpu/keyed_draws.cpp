// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/keyed_draws.h"

#include <algorithm>
#include <array>

#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu {
namespace {

constexpr std::int64_t kBatch = 256;  // draws made at a time

// The mask word and bit of a draw's position.
class Places {
 public:
  Places(std::int64_t rows, std::int64_t cols)
      : positions_(static_cast<std::uint64_t>(rows * cols)),
        cols_(static_cast<std::uint64_t>(cols)),
        words_(static_cast<std::uint64_t>(words_per_row(cols))) {}

  struct Place {
    std::uint64_t word;
    unsigned bit;
  };
  Place operator()(std::uint64_t draw) const {
    __extension__ using uint128 = unsigned __int128;
    const auto position = static_cast<std::uint64_t>((static_cast<uint128>(draw) * positions_) >> 64);
    if (cols_ == words_ * kWordColumns)
      return {position / kWordColumns, static_cast<unsigned>(position % kWordColumns)};
    const std::uint64_t col = position % cols_;
    return {position / cols_ * words_ + col / kWordColumns, static_cast<unsigned>(col % kWordColumns)};
  }

 private:
  std::uint64_t positions_, cols_, words_;
};

// Adds to `taken`, a bitmap of positions that do not count, the first `wanted` drawn positions that are not
// in it. A draw finds at most one, so a batch no longer than what is missing never goes too far.
void draw_bits(const DrawPositionsArgs& args, const IsaKernels& kernels, std::int64_t wanted,
               std::uint32_t* taken) {
  const Places places(args.rows, args.cols);
  std::array<std::uint64_t, kBatch> draws;
  std::array<Places::Place, kBatch> batch;
  std::uint64_t j = 0;
  while (wanted > 0) {
    const auto skip = static_cast<std::size_t>(j % 2);
    const std::size_t end = skip + static_cast<std::size_t>(std::min(wanted, kBatch - 2));
    kernels.mask->draws({.key = args.key,
                         .stream = static_cast<std::uint32_t>(args.stream),
                         .update = args.update,
                         .half = j / 2,
                         .count = static_cast<std::int64_t>(end + 1) / 2,
                         .draws = draws.data()});
    for (std::size_t i = skip; i < end; ++i) {
      batch[i] = places(draws[i]);
      __builtin_prefetch(taken + batch[i].word, 1);  // scattered over the mask: wait for all at once
    }
    for (std::size_t i = skip; i < end; ++i) {
      const std::uint32_t is_new = ~(taken[batch[i].word] >> batch[i].bit) & 1U;
      taken[batch[i].word] |= is_new << batch[i].bit;
      wanted -= is_new;
    }
    j += end - skip;
  }
}

}  // namespace

Status draw_positions(const DrawPositionsArgs& args) {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  const std::int64_t words = args.rows * words_per_row(args.cols);
  const std::int64_t active = kernels->mask->count_bits(args.mask, words);
  // With a wrong count the draws might never end.
  if (args.inactive != args.rows * args.cols - active || args.k < 0 || args.k > args.inactive) {
    return Status::invalid_argument;
  }
  const bool draw_left_out = args.k > args.inactive / 2;
  std::copy_n(args.mask, words, args.chosen);
  draw_bits(args, *kernels, draw_left_out ? args.inactive - args.k : args.k, args.chosen);

  // Of the mask and the drawn positions together, keep the drawn ones; or take all that is in neither.
  const std::int64_t words_in_row = words_per_row(args.cols);
  const auto last_cols = static_cast<unsigned>(args.cols % kWordColumns);
  const std::uint32_t last_word = last_cols == 0 ? ~0U : (1U << last_cols) - 1U;
  for (std::int64_t word = 0; word < words; ++word) {
    args.chosen[word] = draw_left_out ? ~args.chosen[word] : args.chosen[word] ^ args.mask[word];
  }
  for (std::int64_t word = words_in_row - 1; draw_left_out && word < words; word += words_in_row) {
    args.chosen[word] &= last_word;
  }
  return Status::ok;
}

}  // namespace smet::kernels::cpu
