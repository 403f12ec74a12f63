// SPDX-License-Identifier: BSD-3-Clause
// grad_topk: the k inactive positions with the largest |dW|, from tiles of dW that pass by one at a time.
#pragma once

#include <vector>

#include "kernels/expand.h"

namespace smet::kernels {

// A candidate: order-preserving key of |dW| and its flat position. Larger key first, then smaller position.
struct GradCandidate {
  std::uint64_t key;
  std::int64_t position;
};

// The running top k. At most 2k + 65,536 candidates are held, each twice while they are thinned; every tile
// is filtered against the k-th best so far, so the result does not depend on the tiling. NaN gradients order
// last (never grown before a number).
struct GradTopk {
  std::int64_t k = 0;
  std::vector<GradCandidate> candidates;
  std::uint64_t threshold = 0;  // key that a newcomer must reach once k candidates are known
};

struct GradTopkTileArgs {
  const std::uint32_t* mask;  // [rows, words_per_row(cols)] of the whole layer
  std::int64_t rows, cols;
  Tile tile;
  const void* grad;  // the tile of dW, f32 or f64
  DType grad_dtype;
  std::int64_t stride;
};

namespace reference {
Status grad_topk_tile(const Executor& executor, const GradTopkTileArgs& args, GradTopk& state);
// Flat positions, ascending; at most k (fewer when fewer inactive positions passed by). Empties the state.
std::vector<std::int64_t> grad_topk_finish(GradTopk& state);
}  // namespace reference
namespace cpu {
Status grad_topk_tile(const Executor& executor, const GradTopkTileArgs& args, GradTopk& state);
std::vector<std::int64_t> grad_topk_finish(const Executor& executor, GradTopk& state);
}  // namespace cpu
namespace cuda {

// One layer's search. Begin, then its tiles, then finish, all on one stream with one scratch.
struct GradTopkLayer {
  std::int64_t rows, cols;
  std::int64_t k;
  DType grad_dtype;  // of every tile, f32 or f64
};
std::int64_t grad_topk_scratch(const GradTopkLayer& layer);  // 48 k bytes, 1 MB, and 0.13 per position
Status grad_topk_begin(Stream stream, const GradTopkLayer& layer, void* scratch);
Status grad_topk_tile(Stream stream, const GradTopkLayer& layer, const GradTopkTileArgs& args, void* scratch);
// positions [k]: ascending; *found = how many were written, fewer than k when fewer inactive positions passed
// by.
Status grad_topk_finish(Stream stream, const GradTopkLayer& layer, std::int64_t* positions,
                        std::int64_t* found, void* scratch);

}  // namespace cuda

}  // namespace smet::kernels
