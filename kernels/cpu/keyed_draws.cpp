// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/keyed_draws.h"

namespace smet::kernels::cpu {

Status draw_positions(const DrawPositionsArgs& args) {
  return reference::draw_positions(args);
}

}  // namespace smet::kernels::cpu
