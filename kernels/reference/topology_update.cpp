// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/topology_update.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "kernels/reference/elements.h"

namespace smet::kernels::reference {
namespace {

struct Scored {
  double score;
  bool nan;
  std::int64_t row, col;
};

// NaN, then the smaller score; the stable sort keeps equal ones in the order of their positions.
bool pruned_before(const Scored& a, const Scored& b) {
  if (a.nan || b.nan) return a.nan && !b.nan;
  return a.score < b.score;
}

std::vector<Scored> read_scores(const SelectKeepArgs& args) {
  std::vector<Scored> scored;
  scored.reserve(static_cast<std::size_t>(args.pattern.nnz));
  std::int64_t index = 0;
  for (std::int64_t row = 0; row < args.pattern.rows; ++row) {
    for (std::int64_t col = 0; col < args.pattern.cols; ++col) {
      if (!is_active(args.pattern.mask, args.pattern.cols, row, col)) continue;
      double score = load(args.score, args.score_dtype, index++);
      if (args.order == ScoreOrder::magnitude) score = std::fabs(score);
      scored.push_back({score, std::isnan(score), row, col});
    }
  }
  return scored;
}

}  // namespace

Status select_keep(const Executor& /*executor*/, const SelectKeepArgs& args) {
  if (args.k < 0 || args.k > args.pattern.nnz) return Status::invalid_argument;
  std::vector<Scored> scored;
  try {
    scored = read_scores(args);
    std::stable_sort(scored.begin(), scored.end(), pruned_before);
  } catch (const std::bad_alloc&) {
    return Status::out_of_memory;
  }
  const std::int64_t words = words_per_row(args.pattern.cols);
  for (std::int64_t word = 0; word < args.pattern.rows * words; ++word) {
    args.keep[word] = args.pattern.mask[word];
  }
  *args.nan_count = 0;
  for (std::size_t i = 0; i < scored.size(); ++i) {
    const Scored& weight = scored[i];
    if (weight.nan) ++*args.nan_count;
    if (static_cast<std::int64_t>(i) < args.k) {
      args.keep[weight.row * words + weight.col / kWordColumns] &= ~(1U << (weight.col % kWordColumns));
    }
  }
  return Status::ok;
}

Status relayout(const Executor& /*executor*/, const RelayoutArgs& args) {
  const Pattern& pattern = args.old_pattern;
  const std::int64_t bytes = args.element_bytes;
  if (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8) return Status::unsupported_dtype;
  const char* source = static_cast<const char*>(args.array);
  char* destination = static_cast<char*>(args.scratch);
  for (std::int64_t row = 0; row < pattern.rows; ++row) {
    for (std::int64_t col = 0; col < pattern.cols; ++col) {
      const bool was_active = is_active(pattern.mask, pattern.cols, row, col);
      if (is_active(args.new_pattern.mask, pattern.cols, row, col)) {
        std::memcpy(destination, was_active ? source : args.fill, static_cast<std::size_t>(bytes));
        destination += bytes;
      }
      if (was_active) source += bytes;
    }
  }
  std::copy_n(static_cast<const char*>(args.scratch), args.new_pattern.nnz * bytes,
              static_cast<char*>(args.array));
  return Status::ok;
}

Status relayout_cohort(const Executor& /*executor*/, const RelayoutCohortArgs& args) {
  const Pattern& pattern = args.old_pattern;
  std::int64_t old_index = 0;
  std::int64_t new_index = 0;
  std::fill(args.died, args.died + 256, std::int64_t{0});
  for (std::int64_t row = 0; row < pattern.rows; ++row) {
    for (std::int64_t col = 0; col < pattern.cols; ++col) {
      const bool was_active = is_active(pattern.mask, pattern.cols, row, col);
      const bool stays = is_active(args.new_pattern.mask, pattern.cols, row, col);
      const std::uint8_t id = was_active ? args.cohort[old_index++] : args.newborn;
      if (stays) {
        args.scratch[new_index++] = was_active && id == args.newborn ? std::uint8_t{0} : id;
      } else if (was_active) {
        ++args.died[id];
      }
    }
  }
  std::copy_n(args.scratch, args.new_pattern.nnz, args.cohort);
  return Status::ok;
}

}  // namespace smet::kernels::reference
