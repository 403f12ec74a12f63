// SPDX-License-Identifier: BSD-3-Clause
// topology_update: prune the k lowest scores, grow k positions, re-lay out everything that is stored per
// weight.
#pragma once

#include "kernels/keyed_draws.h"

namespace smet::kernels {

// How a score orders: smaller is pruned first. `magnitude` orders by |score|, `signed_value` by score.
// NaN comes before every number. Equal scores: the smaller flat position first.
enum class ScoreOrder : std::uint8_t { magnitude, signed_value };

// keep[r][w] = mask bits less the k active positions that come first in (score, flat position).
// The scores are packed like values. A radix selection over order-preserving integer keys, 12 bits at a time:
// its time does not depend on how many scores are equal. *nan_count = number of NaN scores.
struct SelectKeepArgs {
  Pattern pattern;
  const void* score;  // [nnz]
  DType score_dtype;
  ScoreOrder order;
  std::int64_t k;       // 0 <= k <= nnz, else invalid_argument
  std::uint32_t* keep;  // [rows, words_per_row(cols)]
  std::int64_t* nan_count;
};

// Moves one per-weight array from the old topology to the new one, in place: survivors (set in both masks)
// keep their bits, newborns (set in new_mask alone) get `fill` (element_bytes bytes).
struct RelayoutArgs {
  Pattern old_pattern;
  Pattern new_pattern;         // same rows and cols
  void* array;                 // room for the larger nnz; what is beyond the new one stays
  std::int64_t element_bytes;  // 1, 2, 4 or 8
  const void* fill;
  void* scratch;  // room for new nnz elements, aligned as they are. The fewer weights move far, the less of
                  // it is touched
};

// The same for the cohort ids: newborns get `newborn`, and survivors that carry the id being recycled become
// `mature` (id 0) first. died[id] counts the pruned weights of each id before recycling.
struct RelayoutCohortArgs {
  Pattern old_pattern;
  Pattern new_pattern;
  std::uint8_t* cohort;  // room for the larger nnz
  std::uint8_t newborn;
  std::int64_t* died;     // [256], overwritten
  std::uint8_t* scratch;  // [new nnz]
};

namespace reference {
Status select_keep(const Executor& executor, const SelectKeepArgs& args);
Status relayout(const Executor& executor, const RelayoutArgs& args);
Status relayout_cohort(const Executor& executor, const RelayoutCohortArgs& args);
}  // namespace reference
namespace cpu {
Status select_keep(const Executor& executor, const SelectKeepArgs& args);
Status relayout(const Executor& executor, const RelayoutArgs& args);
Status relayout_cohort(const Executor& executor, const RelayoutCohortArgs& args);
}  // namespace cpu
namespace cuda {

std::int64_t select_keep_scratch();
Status select_keep(Stream stream, const SelectKeepArgs& args, void* scratch);

// Everything that a layer stores per weight, moved in one pass over the masks: relayout of every array, and
// relayout_cohort where `died` is not null, each not in place but into memory of its own.
struct RelayoutArray {
  const void* source;  // [old nnz]
  void* destination;   // [new nnz]
  std::int64_t element_bytes;
  std::uint64_t fill;  // its low bytes
};
inline constexpr int kRelayoutArrays = 8;
struct RelayoutLayerArgs {
  Pattern old_pattern;
  Pattern new_pattern;
  const RelayoutArray* arrays;  // on the host; read before this returns
  std::int64_t count;           // at most kRelayoutArrays, else invalid_argument
  const std::uint8_t* cohort;   // [old nnz]
  std::uint8_t* new_cohort;     // [new nnz]
  std::uint8_t newborn;
  std::int64_t* died;  // [256], overwritten; null: the layer has no cohort
};
Status relayout(Stream stream, const RelayoutLayerArgs& args);

}  // namespace cuda

}  // namespace smet::kernels
