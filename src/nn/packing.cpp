// SPDX-License-Identifier: BSD-3-Clause
#include "src/nn/packing.h"

#include <torch/types.h>

#include <bit>

#include "kernels/mask_rank.h"

namespace smet {

std::int64_t active_positions(const at::Tensor& mask) {
  const at::Tensor words = mask.cpu().contiguous();
  const auto* data = words.const_data_ptr<int32_t>();
  std::int64_t active = 0;
  for (std::int64_t word = 0; word < words.numel(); ++word)
    active += std::popcount(static_cast<uint32_t>(data[word]));
  return active;
}

at::Tensor pack(const at::Tensor& dense) {
  const at::Tensor cpu = dense.cpu().contiguous();
  const std::int64_t rows = cpu.size(0), cols = cpu.size(1), words = kernels::words_per_row(cols);
  at::Tensor packed = torch::zeros({rows, words}, torch::kInt);
  auto* out = reinterpret_cast<uint32_t*>(packed.mutable_data_ptr<int32_t>());
  const bool* in = cpu.const_data_ptr<bool>();
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t col = 0; col < cols; ++col) {
      if (in[row * cols + col]) out[row * words + col / 32] |= 1U << (col % 32);
    }
  }
  return packed;
}

at::Tensor magnitude_mask(const at::Tensor& weight, std::int64_t n) {
  const at::Tensor size = weight.detach().abs().flatten();
  size.masked_fill_(size.isnan(), -1.0);
  at::Tensor keep = torch::zeros({size.numel()}, size.options().dtype(torch::kBool));
  if (n > 0) {
    // A selection, not a sort: the n-th largest, all above it, and the last of those equal to it.
    const at::Tensor threshold = std::get<0>(size.kthvalue(size.numel() - n + 1));
    keep = size > threshold;
    const at::Tensor ties = (size == threshold).nonzero().flatten();
    keep.index_fill_(0, ties.slice(0, ties.numel() - (n - keep.sum().item<std::int64_t>())), true);
  }
  return pack(keep.view(weight.sizes()));
}

}  // namespace smet
