// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "kernels/cpu/tile_plan.h"

namespace smet::kernels::cpu {

TileShape tile_shape(const Pattern& pattern, std::int64_t tokens) {
  const double positions = static_cast<double>(pattern.rows) * static_cast<double>(pattern.cols);
  const double density = positions > 0 ? static_cast<double>(pattern.nnz) / positions : 0;
  const auto rows = static_cast<std::int64_t>(32 / std::max(density, 1e-2));
  TileShape shape = density >= .2    ? TileShape{64, 2, {128, 256}, {128, 128}, 1}
                    : density >= .08 ? TileShape{64, 2, {256, 256}, {192, rows}, 1}
                    : density >= .04 ? TileShape{64, 2, {256, 256}, {1024, rows}, 1}
                                     : TileShape{64, 1, {32768, 512}, {1024, rows}, 1};
  while (shape.width > 16 && shape.width / 2 >= tokens) shape.width /= 2;
  while (kPassTokens[shape.pass] > shape.width) --shape.pass;
  return shape;
}

}  // namespace smet::kernels::cpu
