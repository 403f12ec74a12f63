// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/grad_topk.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>

#include "kernels/reference/elements.h"

namespace smet::kernels::reference {
namespace {

// Grows with |x|: 0 for NaN, else the bits of |x| in the gradient's dtype, plus one.
std::uint64_t magnitude_key(const void* grad, DType dtype, std::int64_t i) {
  const double x = std::fabs(load(grad, dtype, i));
  if (std::isnan(x)) return 0;
  if (dtype == DType::f64) return std::bit_cast<std::uint64_t>(x) + 1;
  return std::uint64_t{std::bit_cast<std::uint32_t>(static_cast<float>(x))} + 1;
}

bool grown_before(const GradCandidate& a, const GradCandidate& b) {
  return a.key != b.key ? a.key > b.key : a.position < b.position;
}

void keep_best(GradTopk& state) {
  std::sort(state.candidates.begin(), state.candidates.end(), grown_before);
  if (static_cast<std::int64_t>(state.candidates.size()) < state.k) return;
  state.candidates.resize(static_cast<std::size_t>(state.k));
  state.threshold = state.k > 0 ? state.candidates.back().key : 0;
}

}  // namespace

Status grad_topk_tile(const Executor& /*executor*/, const GradTopkTileArgs& args, GradTopk& state) {
  if (args.grad_dtype != DType::f32 && args.grad_dtype != DType::f64) return Status::unsupported_dtype;
  if (state.k <= 0) return Status::ok;
  const std::size_t limit = 2 * static_cast<std::size_t>(state.k) + 65536;
  const Tile& tile = args.tile;
  try {
    for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
      for (std::int64_t col = tile.col_begin; col < tile.col_end; ++col) {
        if (is_active(args.mask, args.cols, row, col)) continue;
        const std::int64_t at = (row - tile.row_begin) * args.stride + (col - tile.col_begin);
        const std::uint64_t key = magnitude_key(args.grad, args.grad_dtype, at);
        if (key < state.threshold) continue;
        state.candidates.push_back({key, row * args.cols + col});
        if (state.candidates.size() == limit) keep_best(state);
      }
    }
  } catch (const std::bad_alloc&) {
    return Status::out_of_memory;
  }
  return Status::ok;
}

std::vector<std::int64_t> grad_topk_finish(GradTopk& state) {
  keep_best(state);
  std::vector<std::int64_t> positions;
  positions.reserve(state.candidates.size());
  for (const GradCandidate& candidate : state.candidates) positions.push_back(candidate.position);
  std::sort(positions.begin(), positions.end());
  state.candidates.clear();
  state.threshold = 0;
  return positions;
}

}  // namespace smet::kernels::reference
