// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/grad_topk.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <new>
#include <utility>

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/distribute.h"
#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu {
namespace {

constexpr std::int64_t kSlack = 65536;       // candidates held beyond 2 k (grad_topk.h)
constexpr std::int64_t kBatchWords = 32768;  // mask words scanned at once
constexpr std::int64_t kParts = 64;          // of a batch, run in parallel
constexpr std::size_t kWorthwhile = 16384;   // fewer candidates are not worth waking threads for
static_assert(kBatchWords / kParts * kWordColumns <= kSlack, "a part's candidates fit after keep_best");

bool grown_before(const GradCandidate& a, const GradCandidate& b) {
  return a.key != b.key ? a.key > b.key : a.position < b.position;
}

// Smallest and largest key of the candidates; there are some.
std::pair<std::uint64_t, std::uint64_t> key_range(const Executor& executor,
                                                  const std::vector<GradCandidate>& candidates) {
  const auto n = static_cast<std::int64_t>(candidates.size());
  std::array<std::pair<std::uint64_t, std::uint64_t>, kParts> ranges;
  for_chunks(executor, kParts, [&](std::int64_t part) {
    std::pair<std::uint64_t, std::uint64_t> range{candidates.front().key, candidates.front().key};
    for (std::int64_t i = n * part / kParts; i < n * (part + 1) / kParts; ++i) {
      const std::uint64_t key = candidates[static_cast<std::size_t>(i)].key;
      range = {std::min(range.first, key), std::max(range.second, key)};
    }
    ranges[static_cast<std::size_t>(part)] = range;
  });
  std::pair<std::uint64_t, std::uint64_t> all = ranges[0];
  for (const auto& [low, high] : ranges) all = {std::min(all.first, low), std::max(all.second, high)};
  return all;
}

// Orders the candidates by bins of falling keys; returns where every bin begins, then how many there are.
std::vector<std::int64_t> sort_into_bins(const Executor& executor, std::vector<GradCandidate>& candidates) {
  constexpr int kBinBits = 10;
  const auto [low, high] = key_range(executor, candidates);
  const int shift = std::max(0, static_cast<int>(std::bit_width(high - low)) - kBinBits);
  const auto candidate = [&](std::int64_t i) { return candidates[static_cast<std::size_t>(i)]; };
  std::vector<GradCandidate> sorted(candidates.size());
  std::vector<std::int64_t> first = distribute(
      executor, static_cast<std::int64_t>(candidates.size()), std::size_t{1} << kBinBits,
      [&, top = high](std::int64_t i) { return static_cast<std::size_t>((top - candidate(i).key) >> shift); },
      [&](std::int64_t i, std::int64_t at) { sorted[static_cast<std::size_t>(at)] = candidate(i); });
  candidates.swap(sorted);
  return first;
}

// Drops all but the best k and raises the threshold to the k-th.
void keep_best(const Executor& executor, GradTopk& state) {
  const auto k = static_cast<std::size_t>(state.k);
  std::vector<GradCandidate>& candidates = state.candidates;
  if (k == 0 || candidates.size() < k) return;
  std::vector<std::int64_t> first = {0, static_cast<std::int64_t>(candidates.size())};
  if (candidates.size() >= kWorthwhile) first = sort_into_bins(executor, candidates);
  const auto bin_end = std::lower_bound(first.begin(), first.end(), state.k);  // of the bin with the k-th
  const auto kth = candidates.begin() + (state.k - 1);
  std::nth_element(candidates.begin() + *(bin_end - 1), kth, candidates.begin() + *bin_end, grown_before);
  state.threshold = kth->key;
  candidates.resize(k);
}

std::uint64_t magnitude_key(const void* grad, DType dtype, std::int64_t i) {
  if (dtype == DType::f64) {
    const double x = std::fabs(static_cast<const double*>(grad)[i]);
    return std::isnan(x) ? 0 : std::bit_cast<std::uint64_t>(x) + 1;
  }
  const float x = std::fabs(static_cast<const float*>(grad)[i]);
  return std::isnan(x) ? 0 : std::uint64_t{std::bit_cast<std::uint32_t>(x)} + 1;
}

// One tile's segments, numbered row by row, in batches: first the hits of each word, then the candidates.
class TileScan {
 public:
  TileScan(const GradTopkTileArgs& args, const IsaKernels& kernels)
      : args_(args),
        find_hits_(kernels.mask->topk_hits[args.grad_dtype == DType::f64 ? 1 : 0]),
        count_bits_(kernels.mask->count_bits),
        segments_per_row_(segments_per_row(args.tile.col_end - args.tile.col_begin)),
        words_per_segment_(std::min(kSegmentWords, words_per_row(args.tile.col_end - args.tile.col_begin))),
        hits_(static_cast<std::size_t>(std::min(batch(), segments()) * words_per_segment_)) {}

  std::int64_t segments() const { return (args_.tile.row_end - args_.tile.row_begin) * segments_per_row_; }
  std::int64_t batch() const { return kBatchWords / words_per_segment_; }

  // Adds the candidates of the batch that begins at `begin`.
  void run(const Executor& executor, std::int64_t begin, GradTopk& state) {
    begin_ = begin;
    end_ = std::min(begin + batch(), segments());
    std::array<std::int64_t, kParts + 1> first{};  // where a part's candidates go
    first[0] = static_cast<std::int64_t>(state.candidates.size());
    for_chunks(executor, kParts, [&](std::int64_t part) {
      std::int64_t count = 0;
      for (std::int64_t s = segment(part); s < segment(part + 1); ++s) count += find(s, state.threshold);
      first[static_cast<std::size_t>(part) + 1] = count;
    });
    for (std::size_t part = 1; part < first.size(); ++part) first[part] += first[part - 1];
    if (first.back() > 2 * state.k + kSlack) {
      add_part_by_part(executor, state);
    } else if (first.back() > first.front()) {
      state.candidates.resize(static_cast<std::size_t>(first.back()));
      for_chunks(executor, kParts, [&](std::int64_t part) {
        GradCandidate* out = state.candidates.data() + first[static_cast<std::size_t>(part)];
        for (std::int64_t s = segment(part); s < segment(part + 1); ++s) {
          for_hits(s, [&](const GradCandidate& candidate) { *out++ = candidate; });
        }
      });
    }
  }

 private:
  struct Place {
    std::int64_t row, col, cols, at;  // `at`: element of args.grad
  };

  std::int64_t segment(std::int64_t part) const { return begin_ + (end_ - begin_) * part / kParts; }

  Place place(std::int64_t segment) const {
    const Tile& tile = args_.tile;
    const std::int64_t row = tile.row_begin + segment / segments_per_row_;
    const std::int64_t col = tile.col_begin + segment % segments_per_row_ * kSegmentColumns;
    return {row, col, std::min(kSegmentColumns, tile.col_end - col),
            (row - tile.row_begin) * args_.stride + (col - tile.col_begin)};
  }

  std::uint32_t* hits(std::int64_t segment) { return hits_.data() + (segment - begin_) * words_per_segment_; }

  std::int64_t find(std::int64_t segment, std::uint64_t threshold) {
    const Place here = place(segment);
    find_hits_({.words = args_.mask + here.row * words_per_row(args_.cols) + here.col / kWordColumns,
                .cols = here.cols,
                .grad = static_cast<const char*>(args_.grad) + here.at * element_size(args_.grad_dtype),
                .threshold = threshold,
                .hits = hits(segment)});
    return count_bits_(hits(segment), words_per_row(here.cols));
  }

  template <typename F>
  void for_hits(std::int64_t segment, F&& take) {
    const Place here = place(segment);
    for (std::int64_t w = 0; w < words_per_row(here.cols); ++w) {
      for (std::uint32_t bits = hits(segment)[w]; bits != 0; bits &= bits - 1) {
        const std::int64_t offset = w * kWordColumns + std::countr_zero(bits);
        take(GradCandidate{magnitude_key(args_.grad, args_.grad_dtype, here.at + offset),
                           here.row * args_.cols + here.col + offset});
      }
    }
  }

  // Where all hits together would pass the limit: dropping what falls behind after every part.
  void add_part_by_part(const Executor& executor, GradTopk& state) {
    for (std::int64_t part = 0; part < kParts; ++part) {
      if (static_cast<std::int64_t>(state.candidates.size()) > 2 * state.k) keep_best(executor, state);
      for (std::int64_t s = segment(part); s < segment(part + 1); ++s) {
        for_hits(s, [&](const GradCandidate& candidate) {
          if (candidate.key >= state.threshold) state.candidates.push_back(candidate);
        });
      }
    }
  }

  const GradTopkTileArgs& args_;
  void (*find_hits_)(const TopkRun&);
  std::int64_t (*count_bits_)(const std::uint32_t*, std::int64_t);
  std::int64_t segments_per_row_, words_per_segment_;
  std::vector<std::uint32_t> hits_;  // of the batch
  std::int64_t begin_ = 0, end_ = 0;
};

}  // namespace

Status grad_topk_tile(const Executor& executor, const GradTopkTileArgs& args, GradTopk& state) try {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  if (args.grad_dtype != DType::f32 && args.grad_dtype != DType::f64) return Status::unsupported_dtype;
  if (state.k <= 0 || args.tile.col_begin >= args.tile.col_end) return Status::ok;
  TileScan scan(args, *kernels);
  for (std::int64_t begin = 0; begin < scan.segments(); begin += scan.batch())
    scan.run(executor, begin, state);
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

// Positions go to bands, and every band is sorted by one thread.
std::vector<std::int64_t> grad_topk_finish(const Executor& executor, GradTopk& state) {
  constexpr int kBandBits = 8;
  constexpr std::int64_t kBands = std::int64_t{1} << kBandBits;
  keep_best(executor, state);
  const std::vector<GradCandidate> found = std::exchange(state.candidates, {});
  state.threshold = 0;
  std::int64_t last = 0;
  for (const GradCandidate& candidate : found) last = std::max(last, candidate.position);
  const auto last_bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(last)));
  const int shift = std::max(0, last_bits - kBandBits);
  const auto position = [&](std::int64_t i) { return found[static_cast<std::size_t>(i)].position; };
  std::vector<std::int64_t> positions(found.size());
  const std::vector<std::int64_t> first = distribute(
      executor, static_cast<std::int64_t>(found.size()), kBands,
      [&](std::int64_t i) { return static_cast<std::size_t>(position(i) >> shift); },
      [&](std::int64_t i, std::int64_t at) { positions[static_cast<std::size_t>(at)] = position(i); });
  for_chunks(executor, kBands, [&](std::int64_t band) {
    const auto b = static_cast<std::size_t>(band);
    std::sort(positions.begin() + first[b], positions.begin() + first[b + 1]);
  });
  return positions;
}

}  // namespace smet::kernels::cpu
