// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/keyed_draws.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <new>
#include <numeric>
#include <vector>

#include "kernels/cpu/distribute.h"
#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu {
namespace {

constexpr std::int64_t kFew = 256;              // draws that one thread makes at a time
constexpr std::int64_t kMany = 65536;           // draws that all threads together make at a time
constexpr std::int64_t kWorthwhile = 8192;      // fewer are not worth waking threads for
constexpr std::int64_t kBands = 32;             // of the bitmap; a band's bits are set by one thread
constexpr std::int64_t kAhead = 16;             // bits to prefetch: they are scattered over the bitmap
constexpr std::int64_t kWordsTogether = 16384;  // of the bitmap, counted or written by one thread

// The bit of the bitmap that a draw names.
class BitOf {
 public:
  BitOf(std::int64_t rows, std::int64_t cols)
      : positions_(static_cast<std::uint64_t>(rows * cols)),
        cols_(static_cast<std::uint64_t>(cols)),
        padding_(static_cast<std::uint64_t>(words_per_row(cols) * kWordColumns - cols)) {}

  std::uint64_t operator()(std::uint64_t draw) const {
    __extension__ using uint128 = unsigned __int128;
    const auto position = static_cast<std::uint64_t>((static_cast<uint128>(draw) * positions_) >> 64);
    return padding_ == 0 ? position : position + position / cols_ * padding_;
  }

 private:
  std::uint64_t positions_, cols_, padding_;
};

// Adds to `taken`, a bitmap of positions that do not count, the first `wanted` drawn positions that are not
// in it. A draw finds at most one, so a batch no longer than what is missing never goes too far; which of its
// draws finds a position twice drawn does not matter, so the order within a batch is free.
class Drawing {
 public:
  Drawing(const DrawPositionsArgs& args, const IsaKernels& kernels, std::uint32_t* taken)
      : args_(args), kernels_(*kernels.mask), bit_of_(args.rows, args.cols), taken_(taken) {
    const auto words = static_cast<std::uint64_t>(args.rows * words_per_row(args.cols));
    while ((words >> word_shift_) >= kBands) ++word_shift_;
  }

  void run(const Executor& executor, std::int64_t wanted) {
    while (wanted >= kWorthwhile) wanted -= draw_many(executor, std::min(wanted, kMany) / 2);
    while (wanted > 0) wanted -= draw_few(std::min(wanted, kFew - 2));
  }

 private:
  // Bits of the draws of pairs [half, half + count).
  void draw(std::uint64_t half, std::int64_t count, std::uint64_t* bits) const {
    kernels_.draws({.key = args_.key,
                    .stream = static_cast<std::uint32_t>(args_.stream),
                    .update = args_.update,
                    .half = half,
                    .count = count,
                    .draws = bits});
    for (std::int64_t i = 0; i < 2 * count; ++i) bits[i] = bit_of_(bits[i]);
  }

  // Sets the bits; returns how many were not set before.
  std::int64_t take(const std::uint64_t* bits, std::int64_t count) const {
    std::int64_t found = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      __builtin_prefetch(taken_ + bits[std::min(i + kAhead, count - 1)] / kWordColumns, 1);
      std::uint32_t& word = taken_[bits[i] / kWordColumns];
      const std::uint32_t is_new = ~(word >> bits[i] % kWordColumns) & 1U;
      word |= is_new << bits[i] % kWordColumns;
      found += is_new;
    }
    return found;
  }

  std::int64_t draw_few(std::int64_t count) {
    std::array<std::uint64_t, kFew> bits;
    const auto skip = static_cast<std::int64_t>(drawn_ % 2);
    draw(drawn_ / 2, (skip + count + 1) / 2, bits.data());
    drawn_ += static_cast<std::uint64_t>(count);
    return take(bits.data() + skip, count);
  }

  // Threads draw slices of the batch, then set the bits of bands of the bitmap: no word has two writers.
  std::int64_t draw_many(const Executor& executor, std::int64_t pairs) {
    constexpr std::int64_t kSlices = 32;
    bits_.resize(static_cast<std::size_t>(2 * pairs));
    by_band_.resize(bits_.size());
    for_chunks(executor, kSlices, [&](std::int64_t slice) {
      const std::int64_t begin = pairs * slice / kSlices;
      draw(drawn_ / 2 + static_cast<std::uint64_t>(begin), pairs * (slice + 1) / kSlices - begin,
           bits_.data() + 2 * begin);
    });
    drawn_ += bits_.size();
    const auto bit = [&](std::int64_t i) { return bits_[static_cast<std::size_t>(i)]; };
    const std::vector<std::int64_t> first = distribute(
        executor, 2 * pairs, kBands, [&](std::int64_t i) { return bit(i) / kWordColumns >> word_shift_; },
        [&](std::int64_t i, std::int64_t at) { by_band_[static_cast<std::size_t>(at)] = bit(i); });
    std::array<std::int64_t, kBands> found;
    for_chunks(executor, kBands, [&](std::int64_t band) {
      const auto b = static_cast<std::size_t>(band);
      found[b] = take(by_band_.data() + first[b], first[b + 1] - first[b]);
    });
    return std::accumulate(found.begin(), found.end(), std::int64_t{0});
  }

  const DrawPositionsArgs& args_;
  const MaskKernels& kernels_;
  BitOf bit_of_;
  std::uint32_t* taken_;
  int word_shift_ = 0;       // a word's band is its number shifted right
  std::uint64_t drawn_ = 0;  // even until few are missing
  std::vector<std::uint64_t> bits_, by_band_;
};

}  // namespace

Status draw_positions(const Executor& executor, const DrawPositionsArgs& args) try {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  const std::int64_t words = args.rows * words_per_row(args.cols);
  const std::int64_t chunks = (words + kWordsTogether - 1) / kWordsTogether;
  const auto for_words = [&](const auto& body) {
    for_chunks(executor, chunks, [&](std::int64_t chunk) {
      body(chunk * kWordsTogether, std::min((chunk + 1) * kWordsTogether, words));
    });
  };
  std::atomic<std::int64_t> active{0};
  for_words([&](std::int64_t begin, std::int64_t end) {
    active += kernels->mask->count_bits(args.mask + begin, end - begin);
  });
  // With a wrong count the draws might never end.
  if (args.inactive != args.rows * args.cols - active || args.k < 0 || args.k > args.inactive) {
    return Status::invalid_argument;
  }
  const bool draw_left_out = args.k > args.inactive / 2;
  for_words([&](std::int64_t begin, std::int64_t end) {
    std::copy(args.mask + begin, args.mask + end, args.chosen + begin);
  });
  Drawing drawing(args, *kernels, args.chosen);
  drawing.run(executor, draw_left_out ? args.inactive - args.k : args.k);

  // Of the mask and the drawn positions together, keep the drawn ones; or take all that is in neither.
  for_words([&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t word = begin; word < end; ++word) {
      args.chosen[word] = draw_left_out ? ~args.chosen[word] : args.chosen[word] ^ args.mask[word];
    }
  });
  const std::int64_t words_in_row = words_per_row(args.cols);
  const auto last_cols = static_cast<unsigned>(args.cols % kWordColumns);
  const std::uint32_t last_word = last_cols == 0 ? ~0U : (1U << last_cols) - 1U;
  for (std::int64_t word = words_in_row - 1; draw_left_out && word < words; word += words_in_row) {
    args.chosen[word] &= last_word;
  }
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

}  // namespace smet::kernels::cpu
