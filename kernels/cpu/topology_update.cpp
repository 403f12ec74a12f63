// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/topology_update.h"

#include <array>
#include <new>
#include <vector>

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu {
namespace {

using PerChunk = std::array<std::int64_t, SegmentChunks::kMaxChunks + 1>;

// The pruned weights: those with a key below `threshold`, and the first `ties` of those equal to it.
struct Cut {
  std::uint64_t threshold = 0;
  std::int64_t ties = 0;
};

// One select_keep: counts keys by their leading bits, then looks only into the bin where the k-th falls.
class Selection {
 public:
  Selection(const Executor& executor, const SelectKeepArgs& args, const ScoreKernels& kernels)
      : executor_(executor),
        args_(args),
        kernels_(kernels),
        chunks_(args.pattern.rows, args.pattern.cols),
        histograms_(static_cast<std::size_t>(chunks_.count() * kHistogramBins)) {}

  void run() {
    *args_.nan_count = count_keys();
    if (args_.k > 0) {
      find_bin();
      collect_bin();
      find_cut();
    }
    write_keep();
  }

 private:
  ScoreRun scores(std::int64_t chunk) const {
    return {args_.score, chunks_.weight(args_.pattern, chunks_.segment(chunk)),
            chunks_.weight(args_.pattern, chunks_.segment(chunk + 1))};
  }
  std::uint32_t* histogram(std::int64_t chunk) { return histograms_.data() + chunk * kHistogramBins; }

  std::int64_t count_keys() {
    PerChunk nan{};
    for_chunks(executor_, chunks_.count(), [&](std::int64_t chunk) {
      nan[static_cast<std::size_t>(chunk)] = kernels_.histogram(scores(chunk), histogram(chunk));
    });
    std::int64_t sum = 0;
    for (const std::int64_t part : nan) sum += part;
    return sum;
  }

  // The bin of the k-th key, and how many keys lie in the bins below it.
  void find_bin() {
    std::vector<std::int64_t> total(kHistogramBins);
    for (std::int64_t chunk = 0; chunk < chunks_.count(); ++chunk) {
      for (std::size_t bin = 0; bin < total.size(); ++bin) total[bin] += histogram(chunk)[bin];
    }
    while (below_ + total[bin_] < args_.k) below_ += total[bin_++];
  }

  // The bin's keys, chunk after chunk in packed order; one slot more for each chunk (ScoreKernels::collect).
  void collect_bin() {
    for (std::int64_t chunk = 0; chunk < chunks_.count(); ++chunk) {
      first_[static_cast<std::size_t>(chunk) + 1] =
          first_[static_cast<std::size_t>(chunk)] + histogram(chunk)[bin_] + 1;
    }
    keys_.resize(static_cast<std::size_t>(first_[static_cast<std::size_t>(chunks_.count())]));
    for_chunks(executor_, chunks_.count(), [&](std::int64_t chunk) {
      std::uint64_t* keys = keys_.data() + first_[static_cast<std::size_t>(chunk)];
      kernels_.collect(scores(chunk), static_cast<std::uint32_t>(bin_), keys);
    });
  }

  void find_cut() {
    std::vector<std::uint64_t> keys;
    keys.reserve(keys_.size());
    for (std::int64_t chunk = 0; chunk < chunks_.count(); ++chunk) {
      const auto begin = keys_.begin() + first_[static_cast<std::size_t>(chunk)];
      keys.insert(keys.end(), begin, begin + histogram(chunk)[bin_]);
    }
    const auto kth = keys.begin() + (args_.k - below_ - 1);
    std::nth_element(keys.begin(), kth, keys.end());
    cut_.threshold = *kth;
    const auto smaller = std::count_if(keys.begin(), kth, [&](std::uint64_t key) { return key < *kth; });
    cut_.ties = args_.k - below_ - smaller;
  }

  // How many weights before `chunk` are equal to the threshold.
  PerChunk ties_before() const {
    PerChunk before{};
    if (args_.k == 0) return before;
    for (std::size_t chunk = 0; chunk < static_cast<std::size_t>(chunks_.count()); ++chunk) {
      const auto begin = keys_.begin() + first_[chunk];
      before[chunk + 1] =
          before[chunk] + std::count(begin, keys_.begin() + first_[chunk + 1] - 1, cut_.threshold);
    }
    return before;
  }

  void write_keep() {
    const PerChunk before = ties_before();
    for_chunks(executor_, chunks_.count(), [&](std::int64_t chunk) {
      const std::int64_t word = chunks_.word(chunks_.segment(chunk));
      kernels_.keep({.words = args_.pattern.mask + word,
                     .keep = args_.keep + word,
                     .count = chunks_.word(chunks_.segment(chunk + 1)) - word,
                     .score = args_.score,
                     .index = scores(chunk).begin,
                     .nnz = args_.pattern.nnz,
                     .threshold = cut_.threshold,
                     .ties = std::max<std::int64_t>(0, cut_.ties - before[static_cast<std::size_t>(chunk)])});
    });
  }

  const Executor& executor_;
  const SelectKeepArgs& args_;
  const ScoreKernels& kernels_;
  SegmentChunks chunks_;
  std::vector<std::uint32_t> histograms_;  // [chunks][kHistogramBins]
  std::vector<std::uint64_t> keys_;        // of the one bin
  PerChunk first_{};                       // where a chunk's part of keys_ begins
  std::size_t bin_ = 0;
  std::int64_t below_ = 0;
  Cut cut_;
};

RelayoutRun relayout_run(const SegmentChunks& chunks, std::int64_t chunk, const Pattern& old_pattern,
                         const Pattern& new_pattern) {
  const std::int64_t segment = chunks.segment(chunk);
  const std::int64_t end = chunks.segment(chunk + 1);
  RelayoutRun run{};
  run.old_words = old_pattern.mask + chunks.word(segment);
  run.new_words = new_pattern.mask + chunks.word(segment);
  run.words = chunks.word(end) - chunks.word(segment);
  run.index = chunks.weight(old_pattern, segment);
  run.nnz = old_pattern.nnz;
  run.new_index = chunks.weight(new_pattern, segment);
  run.new_end = chunks.weight(new_pattern, end);
  return run;
}

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

Status relayout(const Executor& executor, const RelayoutArgs& args) {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  int width = 0;
  while (width < 4 && (std::int64_t{1} << width) != args.element_bytes) ++width;
  if (width == 4) return Status::unsupported_dtype;
  const SegmentChunks chunks(args.old_pattern.rows, args.old_pattern.cols);
  for_chunks(executor, chunks.count(), [&](std::int64_t chunk) {
    RelayoutRun run = relayout_run(chunks, chunk, args.old_pattern, args.new_pattern);
    run.source = args.source;
    run.destination = args.destination;
    run.fill = args.fill;
    kernels->relayout->run[width](run);
  });
  return Status::ok;
}

Status relayout_cohort(const Executor& executor, const RelayoutCohortArgs& args) try {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  const SegmentChunks chunks(args.old_pattern.rows, args.old_pattern.cols);
  std::vector<std::array<std::int64_t, 256>> died(static_cast<std::size_t>(chunks.count()));
  for_chunks(executor, chunks.count(), [&](std::int64_t chunk) {
    RelayoutRun run = relayout_run(chunks, chunk, args.old_pattern, args.new_pattern);
    run.source = args.source;
    run.destination = args.destination;
    run.fill = &args.newborn;
    run.recycled = args.newborn;
    kernels->relayout->cohort(run, died[static_cast<std::size_t>(chunk)].data());
  });
  std::fill(args.died, args.died + 256, std::int64_t{0});
  for (const auto& part : died) {
    for (std::size_t id = 0; id < part.size(); ++id) args.died[id] += part[id];
  }
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

}  // namespace smet::kernels::cpu
