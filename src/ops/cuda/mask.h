// SPDX-License-Identifier: BSD-3-Clause
// Masks on the device: words, checks and counts. Everything here reads back from the device, which waits for
// it.
#pragma once

#include "src/ops/cuda/device.h"

namespace smet::ops::cuda {

inline const uint32_t* words(const at::Tensor& mask) {
  return reinterpret_cast<const uint32_t*>(mask.const_data_ptr<int32_t>());
}
inline uint32_t* mutable_words(const at::Tensor& mask) {
  return reinterpret_cast<uint32_t*>(mask.mutable_data_ptr<int32_t>());
}

// Throws unless mask is a contiguous int32 [out, words of cols] without a bit beyond the last column.
void check_mask(const OnDevice& device, const at::Tensor& mask, int64_t cols, const char* op);

struct Ranks {
  at::Tensor rank;
  int64_t active;
};
Ranks derive_ranks(const OnDevice& device, const at::Tensor& mask, int64_t cols, const char* op);

}  // namespace smet::ops::cuda
