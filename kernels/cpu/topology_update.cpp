// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/topology_update.h"

namespace smet::kernels::cpu {

Status select_keep(const Executor& executor, const SelectKeepArgs& args) {
  return reference::select_keep(executor, args);
}

Status relayout(const Executor& executor, const RelayoutArgs& args) {
  return reference::relayout(executor, args);
}

Status relayout_cohort(const Executor& executor, const RelayoutCohortArgs& args) {
  return reference::relayout_cohort(executor, args);
}

}  // namespace smet::kernels::cpu
