// SPDX-License-Identifier: BSD-3-Clause
// draw_positions: k inactive positions of a mask, drawn by the keyed generator.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <bit>
#include <limits>

#include "kernels/keyed_draws.h"
#include "kernels/mask_rank.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops {
namespace {

int64_t active_positions(const uint32_t* words, int64_t count) {
  int64_t active = 0;
  for (int64_t word = 0; word < count; ++word) active += std::popcount(words[word]);
  return active;
}

at::Tensor draw_positions(const at::Tensor& mask, int64_t cols, int64_t k, int64_t key, int64_t stream,
                          int64_t update) {
  TORCH_CHECK_TYPE(mask.scalar_type() == at::kInt, "smet::draw_positions: mask has dtype ",
                   mask.scalar_type(), "; expected int32");
  TORCH_CHECK_VALUE(mask.dim() == 2 && mask.size(1) == kernels::words_per_row(cols) && mask.is_contiguous(),
                    "smet::draw_positions: mask has shape ", mask.sizes(), "; for ", cols,
                    " input features expected a contiguous [out, ", kernels::words_per_row(cols), "]");
  TORCH_CHECK_VALUE(stream >= 0 && stream <= 3, "smet::draw_positions: stream is ", stream,
                    "; expected 0 (initial), 1 (grow), 2 (scores) or 3 (init_values)");
  TORCH_CHECK_VALUE(update >= 0 && update <= std::numeric_limits<uint32_t>::max(),
                    "smet::draw_positions: update is ", update, "; expected 0 to 2^32 - 1");
  const auto* words = reinterpret_cast<const uint32_t*>(mask.const_data_ptr<int32_t>());
  TORCH_CHECK_VALUE(!kernels::has_pad_bits(words, mask.size(0), cols),
                    "smet::draw_positions: mask has bits set at or beyond column ", cols);
  const int64_t inactive = mask.size(0) * cols - active_positions(words, mask.numel());
  TORCH_CHECK_VALUE(k >= 0 && k <= inactive, "smet::draw_positions: k is ", k, "; the mask has ", inactive,
                    " inactive positions");
  at::Tensor chosen = at::empty_like(mask);
  check_status(kernels::cpu::draw_positions(
                   executor(), {.mask = words,
                                .rows = mask.size(0),
                                .cols = cols,
                                .inactive = inactive,
                                .k = k,
                                .key = static_cast<uint64_t>(key),
                                .stream = static_cast<kernels::DrawStream>(stream),
                                .update = static_cast<uint32_t>(update),
                                .chosen = reinterpret_cast<uint32_t*>(chosen.mutable_data_ptr<int32_t>())}),
               "draw_positions");
  return chosen;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smet, m) {
  m.def("draw_positions(Tensor mask, SymInt cols, int k, int key, int stream=0, int update=0) -> Tensor");
}

TORCH_LIBRARY_IMPL(smet, CPU, m) {
  m.impl("draw_positions", &draw_positions);
}

}  // namespace smet::ops
