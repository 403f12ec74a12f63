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

// Sets the bits of the first `wanted` distinct inactive positions. A draw finds at most one, so a batch no
// longer than what is missing never goes too far.
void draw_bits(const DrawPositionsArgs& args, const IsaKernels& kernels, std::int64_t wanted) {
  const Places places(args.rows, args.cols);
  std::array<std::uint64_t, kBatch> draws;
  std::int64_t found = 0;
  for (std::uint64_t j = 0; found < wanted;) {
    const std::int64_t missing = wanted - found;
    const auto skip = static_cast<std::int64_t>(j % 2);
    const std::int64_t count = std::min(missing, kBatch - 2);
    kernels.mask->draws({.key = args.key,
                         .stream = static_cast<std::uint32_t>(args.stream),
                         .update = args.update,
                         .half = j / 2,
                         .count = (skip + count + 1) / 2,
                         .draws = draws.data()});
    for (std::int64_t i = skip; i < skip + count; ++i) {
      const auto [word, bit] = places(draws[static_cast<std::size_t>(i)]);
      const std::uint32_t taken = args.mask[word] | args.chosen[word];
      const std::uint32_t is_new = ~(taken >> bit) & 1U;
      args.chosen[word] |= is_new << bit;
      found += is_new;
    }
    j += static_cast<std::uint64_t>(count);
  }
}

// chosen = the inactive positions that are not in chosen.
void complement(const DrawPositionsArgs& args) {
  const std::int64_t words = words_per_row(args.cols);
  const auto rest = static_cast<unsigned>(args.cols % kWordColumns);
  const std::uint32_t last = rest == 0 ? ~0U : (1U << rest) - 1U;
  for (std::int64_t row = 0; row < args.rows; ++row) {
    for (std::int64_t w = 0; w < words; ++w) {
      const std::uint32_t columns = w + 1 == words ? last : ~0U;
      args.chosen[row * words + w] = ~(args.chosen[row * words + w] | args.mask[row * words + w]) & columns;
    }
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
  std::fill(args.chosen, args.chosen + words, 0U);
  const bool draw_left_out = args.k > args.inactive / 2;
  draw_bits(args, *kernels, draw_left_out ? args.inactive - args.k : args.k);
  if (draw_left_out) complement(args);
  return Status::ok;
}

}  // namespace smet::kernels::cpu
