// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/mask_rank.h"

namespace smet::kernels::cpu {

Status mask_rank(const Executor& executor, const MaskRankArgs& args) {
  return reference::mask_rank(executor, args);
}

std::uint64_t mask_hash(const Executor& executor, const MaskHashArgs& args) {
  return reference::mask_hash(executor, args);
}

}  // namespace smet::kernels::cpu
