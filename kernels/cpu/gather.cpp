// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/gather.h"

namespace smet::kernels::cpu {

Status gather(const Executor& executor, const GatherArgs& args) {
  return reference::gather(executor, args);
}

}  // namespace smet::kernels::cpu
