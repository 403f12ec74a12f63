// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <cstdlib>

#include "kernels/cpu/tile_plan.h"

namespace smet::kernels::cpu {

TileShape tile_shape(const Pattern& pattern, std::int64_t tokens) {
  const double positions = static_cast<double>(pattern.rows) * static_cast<double>(pattern.cols);
  const double density = positions > 0 ? static_cast<double>(pattern.nnz) / positions : 0;
  TileShape shape = density >= .2    ? TileShape{2, 128, 256, 1}
                    : density >= .08 ? TileShape{2, 256, 256, 1}
                    : density >= .04 ? TileShape{1, 32768, 256, 4}
                                     : TileShape{1, 32768, 512, 4};
  if (const char* e = getenv("SHAPE")) {
    int k, p, b, t;
    if (sscanf(e, "%d,%d,%d,%d", &k, &p, &b, &t) == 4) shape = {k, p, b, t};
  }
  while (shape.kind > 0 && kTileWidths[shape.kind - 1] >= tokens) --shape.kind;
  return shape;
}

}  // namespace smet::kernels::cpu
