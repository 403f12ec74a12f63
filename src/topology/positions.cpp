// SPDX-License-Identifier: BSD-3-Clause
#include "src/topology/positions.h"

#include <ATen/ops/empty.h>

#include <bit>

#include "src/ops/kernel_glue.h"

namespace smet {

at::Tensor active_positions(const at::Tensor& mask, const at::Tensor& rank, std::int64_t cols,
                            std::int64_t n) {
  const at::Tensor host_mask = mask.cpu();
  const at::Tensor host_rank = rank.cpu();
  const kernels::Pattern pattern = ops::make_pattern(host_mask, host_rank, cols, n);
  const std::int64_t words = kernels::words_per_row(cols);
  const at::Tensor positions = at::empty({n}, at::TensorOptions(at::kLong));
  auto* out = positions.mutable_data_ptr<std::int64_t>();
  const std::int64_t segments = kernels::segments_per_row(cols);
  kernels::for_chunks(ops::executor(), cols > 0 ? pattern.rows : 0, [&](std::int64_t row) {
    std::int64_t index = pattern.rank[row * segments];
    for (std::int64_t word = 0; word < words; ++word) {
      for (std::uint32_t bits = pattern.mask[row * words + word]; bits != 0; bits &= bits - 1) {
        out[index++] = row * cols + word * kernels::kWordColumns + std::countr_zero(bits);
      }
    }
  });
  return positions.to(mask.device());
}

std::int64_t count_bits(const at::Tensor& words) {
  const at::Tensor host = words.cpu().contiguous();
  const auto* word = host.const_data_ptr<std::int32_t>();
  std::int64_t bits = 0;
  for (std::int64_t i = 0; i < host.numel(); ++i) bits += std::popcount(static_cast<std::uint32_t>(word[i]));
  return bits;
}

}  // namespace smet
