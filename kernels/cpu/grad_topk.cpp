// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/grad_topk.h"

namespace smet::kernels::cpu {

Status grad_topk_tile(const Executor& executor, const GradTopkTileArgs& args, GradTopk& state) {
  return reference::grad_topk_tile(executor, args, state);
}

std::vector<std::int64_t> grad_topk_finish(GradTopk& state) {
  return reference::grad_topk_finish(state);
}

}  // namespace smet::kernels::cpu
