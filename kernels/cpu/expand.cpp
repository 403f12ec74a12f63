// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/expand.h"

namespace smet::kernels::cpu {

Status expand(const Executor& executor, const ExpandArgs& args) {
  return reference::expand(executor, args);
}

}  // namespace smet::kernels::cpu
