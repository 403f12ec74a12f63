// SPDX-License-Identifier: BSD-3-Clause
// relayout in place. Weights move a little: by as many as were grown less those pruned before them. A range
// of weights is therefore laid out anew step by step into a buffer that stays in the cache, and what it holds
// is written over the array as far as that has been read. Memory is read once and written once, where a copy
// of the array would be written, read and fetched besides.
#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <vector>

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/topology_update.h"

namespace smet::kernels::cpu {
namespace {

constexpr std::int64_t kStepWeights = 4096;

struct Weights {
  std::int64_t begin, end;
  std::int64_t count() const { return end - begin; }
};

// Segments as both patterns see them.
class Segments {
 public:
  Segments(const Pattern& old_pattern, const Pattern& new_pattern)
      : old_(old_pattern), new_(new_pattern), chunks_(old_pattern.rows, old_pattern.cols) {}

  const SegmentChunks& chunks() const { return chunks_; }
  Weights old_weights(std::int64_t begin, std::int64_t end) const {
    return {chunks_.weight(old_, begin), chunks_.weight(old_, end)};
  }
  Weights new_weights(std::int64_t begin, std::int64_t end) const {
    return {chunks_.weight(new_, begin), chunks_.weight(new_, end)};
  }
  // The end of a step that begins at a segment: at least one, and no more weights than kStepWeights and those
  // of one segment.
  std::int64_t step_end(std::int64_t begin, std::int64_t last) const {
    std::int64_t end = begin + 1;
    while (end < last && old_weights(begin, end).count() < kStepWeights &&
           new_weights(begin, end).count() < kStepWeights) {
      ++end;
    }
    return end;
  }
  RelayoutRun run(std::int64_t begin, std::int64_t end) const {
    RelayoutRun run{};
    run.old_words = old_.mask + chunks_.word(begin);
    run.new_words = new_.mask + chunks_.word(begin);
    run.words = chunks_.word(end) - chunks_.word(begin);
    return run;
  }

 private:
  const Pattern& old_;
  const Pattern& new_;
  SegmentChunks chunks_;
};

// One chunk of the segments. While others read what was theirs, only [old_.begin, old_.end) of the array is
// its own: new weights that belong before it (`early_` of them) or behind it wait in the buffer for finish().
class Range {
 public:
  Range() = default;
  Range(const Segments& segments, std::int64_t chunk)
      : segments_(&segments),
        first_(segments.chunks().segment(chunk)),
        last_(segments.chunks().segment(chunk + 1)),
        old_(segments.old_weights(first_, last_)),
        new_(segments.new_weights(first_, last_)),
        early_(std::clamp(old_.begin, new_.begin, new_.end) - new_.begin),
        written_(new_.begin + early_) {
    std::int64_t waiting = 0;
    std::int64_t step = 0;
    for_steps([&](std::int64_t begin, std::int64_t end) {
      const Weights weights = segments_->new_weights(begin, end);
      step = std::max(step, weights.count());
      waiting = std::max(waiting, weights.end - std::max(segments_->old_weights(begin, end).end, written_));
    });
    // Twice what may wait: it is moved to the front of the buffer only after as much has been written.
    capacity_ = std::min(new_.count(), early_ + 2 * waiting + step);
  }

  std::int64_t capacity() const { return capacity_; }

  // move(run): the kernel. `buffer` has room for capacity() elements of `bytes`.
  template <typename Move>
  void run(char* array, char* buffer, std::int64_t bytes, const Move& move) {
    buffer_ = {buffer, bytes, new_.begin};
    for_steps([&](std::int64_t begin, std::int64_t end) {
      const Weights from = segments_->old_weights(begin, end);
      const Weights to = segments_->new_weights(begin, end);
      if (to.end - buffer_.first > capacity_) buffer_.keep(early_, written_, to.begin);
      RelayoutRun run = segments_->run(begin, end);
      run.source = array;
      run.index = from.begin;
      run.nnz = old_.end;
      run.destination = buffer;
      run.new_index = to.begin - buffer_.first;
      run.new_end = capacity_;
      move(run);
      write(array, std::min(from.end, to.end));
    });
  }

  // After run() of all ranges.
  void finish(char* array) {
    const std::int64_t bytes = buffer_.bytes;
    std::copy_n(buffer_.data, early_ * bytes, array + new_.begin * bytes);
    write(array, new_.end);
  }

 private:
  // The new weights from `first` on, but for the early ones, which stay at the front.
  struct Buffer {
    char* data;
    std::int64_t bytes, first;

    char* at(std::int64_t weight) const { return data + (weight - first) * bytes; }
    // Moves [begin, end) behind the early ones.
    void keep(std::int64_t early, std::int64_t begin, std::int64_t end) {
      std::memmove(data + early * bytes, at(begin), static_cast<std::size_t>((end - begin) * bytes));
      first = begin - early;
    }
  };

  template <typename F>
  void for_steps(F&& step) const {
    for (std::int64_t begin = first_; begin < last_;) {
      const std::int64_t end = segments_->step_end(begin, last_);
      step(begin, end);
      begin = end;
    }
  }

  void write(char* array, std::int64_t end) {
    if (end <= written_) return;
    const std::int64_t bytes = buffer_.bytes;
    std::copy_n(buffer_.at(written_), (end - written_) * bytes, array + written_ * bytes);
    written_ = end;
  }

  const Segments* segments_ = nullptr;
  std::int64_t first_ = 0, last_ = 0;  // segments
  Weights old_{}, new_{};
  std::int64_t early_ = 0;
  std::int64_t written_ = 0;  // up to this new weight
  std::int64_t capacity_ = 0;
  Buffer buffer_{};
};

// move(run, chunk) on every step of every chunk. Allocates nothing: a layer's arrays move one after the
// other, and after the first it is too late to fail. (The cohort ids, which need counts, are the first.)
template <typename Move>
void move_in_place(const Executor& executor, const Segments& segments, void* array, std::int64_t bytes,
                   void* scratch, const Move& move) {
  const std::int64_t count = segments.chunks().count();
  std::array<Range, SegmentChunks::kMaxChunks> ranges;
  const auto range = [&](std::int64_t chunk) -> Range& { return ranges[static_cast<std::size_t>(chunk)]; };
  for_chunks(executor, count, [&](std::int64_t chunk) { range(chunk) = Range(segments, chunk); });
  std::array<std::int64_t, SegmentChunks::kMaxChunks> offset;
  std::int64_t size = 0;
  for (std::int64_t chunk = 0; chunk < count; ++chunk) {
    offset[static_cast<std::size_t>(chunk)] = size;
    size += range(chunk).capacity();
  }
  auto* data = static_cast<char*>(array);
  for_chunks(executor, count, [&](std::int64_t chunk) {
    char* buffer = static_cast<char*>(scratch) + offset[static_cast<std::size_t>(chunk)] * bytes;
    range(chunk).run(data, buffer, bytes, [&](const RelayoutRun& run) { move(run, chunk); });
  });
  for_chunks(executor, count, [&](std::int64_t chunk) { range(chunk).finish(data); });
}

}  // namespace

Status relayout(const Executor& executor, const RelayoutArgs& args) {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  std::size_t width = 0;
  while (width < 4 && (std::int64_t{1} << width) != args.element_bytes) ++width;
  if (width == 4) return Status::unsupported_dtype;
  const Segments segments(args.old_pattern, args.new_pattern);
  move_in_place(executor, segments, args.array, args.element_bytes, args.scratch,
                [&](RelayoutRun run, std::int64_t /*chunk*/) {
                  run.fill = args.fill;
                  kernels->relayout->run[width](run);
                });
  return Status::ok;
}

Status relayout_cohort(const Executor& executor, const RelayoutCohortArgs& args) try {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  const Segments segments(args.old_pattern, args.new_pattern);
  std::vector<std::array<std::int64_t, 256>> died(static_cast<std::size_t>(segments.chunks().count()));
  move_in_place(executor, segments, args.cohort, 1, args.scratch, [&](RelayoutRun run, std::int64_t chunk) {
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
