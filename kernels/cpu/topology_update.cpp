// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/topology_update.h"

#include <algorithm>
#include <array>
#include <new>
#include <vector>

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu {
namespace {

using PerChunk = std::array<std::int64_t, SegmentChunks::kMaxChunks + 1>;

// One select_keep: the key of the k-th score is found digit by digit, each from the counts of those keys
// alone that begin like it. However many scores are equal, nothing is sorted or copied.
class Selection {
 public:
  Selection(const Executor& executor, const SelectKeepArgs& args, const ScoreKernels& kernels)
      : executor_(executor),
        args_(args),
        kernels_(kernels),
        chunks_(args.pattern.rows, args.pattern.cols),
        histograms_(static_cast<std::size_t>(chunks_.count() * kHistogramBins)),
        left_(args.k) {}

  void run() {
    *args_.nan_count = count_first_digits();
    if (args_.k > 0) {
      find_digit();
      threshold_ = digit_;
      for (int upper = kernels_.shift; upper > 0;) {
        const int lower = std::max(0, upper - kDigitBits);
        count_digits({threshold_, upper, lower});
        find_digit();
        threshold_ = threshold_ << (upper - lower) | digit_;
        upper = lower;
      }
    }
    write_keep();
  }

 private:
  ScoreRun scores(std::int64_t chunk) const {
    return {args_.score, chunks_.weight(args_.pattern, chunks_.segment(chunk)),
            chunks_.weight(args_.pattern, chunks_.segment(chunk + 1))};
  }
  std::uint32_t* histogram(std::int64_t chunk) { return histograms_.data() + chunk * kHistogramBins; }

  std::int64_t count_first_digits() {
    PerChunk nan{};
    for_chunks(executor_, chunks_.count(), [&](std::int64_t chunk) {
      nan[static_cast<std::size_t>(chunk)] = kernels_.histogram(scores(chunk), histogram(chunk));
    });
    std::int64_t sum = 0;
    for (const std::int64_t part : nan) sum += part;
    return sum;
  }

  void count_digits(const Digit& digit) {
    for_chunks(executor_, chunks_.count(), [&](std::int64_t chunk) {
      std::fill(histogram(chunk), histogram(chunk) + kHistogramBins, 0U);
      kernels_.refine(scores(chunk), digit, histogram(chunk));
    });
  }

  // The digit of the k-th key is that of the left_-th of the keys counted.
  void find_digit() {
    std::vector<std::int64_t> total(kHistogramBins);
    for (std::int64_t chunk = 0; chunk < chunks_.count(); ++chunk) {
      for (std::size_t bin = 0; bin < total.size(); ++bin) total[bin] += histogram(chunk)[bin];
    }
    for (digit_ = 0; total[digit_] < left_; ++digit_) left_ -= total[digit_];
  }

  // After the last digit a chunk's count of it is its number of keys equal to the threshold, of which the
  // first left_ go.
  void write_keep() {
    PerChunk ties{};
    std::int64_t left = left_;
    for (std::int64_t chunk = 0; chunk < chunks_.count(); ++chunk) {
      ties[static_cast<std::size_t>(chunk)] = left;
      left = std::max<std::int64_t>(0, left - histogram(chunk)[digit_]);
    }
    for_chunks(executor_, chunks_.count(), [&](std::int64_t chunk) {
      const std::int64_t word = chunks_.word(chunks_.segment(chunk));
      kernels_.keep({.words = args_.pattern.mask + word,
                     .keep = args_.keep + word,
                     .count = chunks_.word(chunks_.segment(chunk + 1)) - word,
                     .score = args_.score,
                     .index = scores(chunk).begin,
                     .nnz = args_.pattern.nnz,
                     .threshold = threshold_,
                     .ties = ties[static_cast<std::size_t>(chunk)]});
    });
  }

  const Executor& executor_;
  const SelectKeepArgs& args_;
  const ScoreKernels& kernels_;
  SegmentChunks chunks_;
  std::vector<std::uint32_t> histograms_;  // [chunks][kHistogramBins] of the digit last counted
  std::int64_t left_;                      // how many of the keys that begin like the k-th one go
  std::size_t digit_ = 0;                  // the one last found
  std::uint64_t threshold_ = 0;            // the digits found: keys below it go
};

}  // namespace

Status select_keep(const Executor& executor, const SelectKeepArgs& args) try {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  if (args.k < 0 || args.k > args.pattern.nnz) return Status::invalid_argument;
  const ScoreKernels& score =
      kernels->select->score[static_cast<int>(args.score_dtype)][static_cast<int>(args.order)];
  Selection(executor, args, score).run();
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

}  // namespace smet::kernels::cpu
