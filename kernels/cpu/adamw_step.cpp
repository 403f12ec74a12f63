// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_step.h"

namespace smet::kernels::cpu {

Status adamw_step(const Executor& executor, const AdamWStepArgs& args) {
  return reference::adamw_step(executor, args);
}

std::int64_t first_nonfinite(const Executor& executor, const Buffer* buffers, std::int64_t count) {
  return reference::first_nonfinite(executor, buffers, count);
}

}  // namespace smet::kernels::cpu
