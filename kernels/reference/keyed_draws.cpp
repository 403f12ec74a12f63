// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/keyed_draws.h"

#include <bit>

#include "kernels/philox.h"
#include "kernels/reference/elements.h"

namespace smet::kernels {

std::uint64_t keyed_draw(std::uint64_t key, DrawStream stream, std::uint32_t update, std::uint64_t j) {
  const PhiloxCounter words =
      philox4x32_10({static_cast<std::uint32_t>(j / 2), static_cast<std::uint32_t>((j / 2) >> 32), update,
                     static_cast<std::uint32_t>(stream)},
                    {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)});
  const std::size_t first = j % 2 == 0 ? 0 : 2;
  return words[first] | (static_cast<std::uint64_t>(words[first + 1]) << 32);
}

namespace reference {
namespace {

// floor(draw * positions / 2^64)
std::int64_t scale(std::uint64_t draw, std::int64_t positions) {
  __extension__ using uint128 = unsigned __int128;
  return static_cast<std::int64_t>((static_cast<uint128>(draw) * static_cast<std::uint64_t>(positions)) >>
                                   64);
}

}  // namespace

Status draw_positions(const DrawPositionsArgs& args) {
  const std::int64_t words = words_per_row(args.cols);
  std::int64_t inactive = args.rows * args.cols;
  for (std::int64_t word = 0; word < args.rows * words; ++word) inactive -= std::popcount(args.mask[word]);
  if (args.inactive != inactive || args.k < 0 || args.k > inactive) return Status::invalid_argument;
  for (std::int64_t word = 0; word < args.rows * words; ++word) args.chosen[word] = 0;

  const bool draw_left_out = args.k > args.inactive / 2;
  const std::int64_t wanted = draw_left_out ? args.inactive - args.k : args.k;
  std::int64_t found = 0;
  for (std::uint64_t j = 0; found < wanted; ++j) {
    const std::int64_t position =
        scale(keyed_draw(args.key, args.stream, args.update, j), args.rows * args.cols);
    const std::int64_t row = position / args.cols;
    const std::int64_t col = position % args.cols;
    if (is_active(args.mask, args.cols, row, col)) continue;
    if (is_active(args.chosen, args.cols, row, col)) continue;
    args.chosen[row * words + col / kWordColumns] |= 1U << (col % kWordColumns);
    ++found;
  }
  if (!draw_left_out) return Status::ok;

  for (std::int64_t row = 0; row < args.rows; ++row) {
    for (std::int64_t col = 0; col < args.cols; ++col) {
      if (is_active(args.mask, args.cols, row, col)) continue;
      args.chosen[row * words + col / kWordColumns] ^= 1U << (col % kWordColumns);
    }
  }
  return Status::ok;
}

}  // namespace reference
}  // namespace smet::kernels
