// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>

#include "kernels/cpu/tile_plan.h"

namespace smet::kernels::cpu {
namespace {

// At least one block of rows for every thread, as far as there are rows: to decode, and for the values
// gradient, whose other units are panels.
std::int64_t shared(std::int64_t block, std::int64_t rows, std::int64_t threads) {
  return std::min(block, std::max(kWordColumns, (rows + threads - 1) / threads));
}

constexpr std::int64_t kNoPanel = std::int64_t{1} << 15;  // columns are 16-bit

// Chosen by forward, input and values gradient of 2048x2048, 2736x1024 and 768x768, T = 512, on a Zen 4 with
// 32 KB of L1 and 1 MB of L2, as time of a dense product's:
//   product   a panel of 128 columns by 64 tokens is 32 KB. At d = .05 a row has 13 weights in 256 columns:
//             .13 forward, .15 backward, against .14 and .18 without panels. Below, its row of y costs more
//             than what the panel saves: no panel, and tiles of 32 tokens so that x stays in the L2. (On a
//             Sapphire Rapids with AVX2: tiles of 32 are 5 to 13 % quicker than passes of 32 over tiles of
//             64, and at d = .1 the layer 5 % with 128 columns than with 256, once rows came by length.)
//   gradient  two panels of 96 columns, for two tiles of dy, and one row of each fit the L1: .48 at d = .25
//             against .57 with one panel of 128, .26 at d = .1 against .38 with one of 256.
//   block     of the gradient: at least 32 weights of a column, so that a panel's loading pays.
//   backward  more than 256 tokens leave the L2: 512 take 8 % longer at d <= .1. With 128 threads wait
//             for each other more often.
TileShape of_8_lanes(double density) {
  return density >= .2    ? TileShape{64, 2, {128, 256}, {96, 128}, 2, 256}
         : density >= .08 ? TileShape{64, 2, {128, 256}, {96, 256}, 2, 256}
         : density >= .04 ? TileShape{64, 2, {256, 256}, {192, 640}, 2, 256}
                          : TileShape{32, 1, {kNoPanel, 512}, {1024, 1600}, 2, 256};
}

// By the same on a Sapphire Rapids with 48 KB of L1 and 2 MB of L2, one thread, as time of a dense product's
// at 195 GFLOP/s. Eight vectors to a weight share its broadcast and index.
//   product   a panel of 64 columns by 128 tokens is 32 KB, .70 of what the L1 delivers at d = .5; one of
//             96 is all of the L1, .60. At d = .1 a row wants more weights to a panel, and with the rows by
//             length half the tokens and more columns cost no more mispredictions: the layer 7 % quicker
//             than with 128 columns by 128 tokens. At d = .05 256 columns: 6 % quicker than 1024. Below,
//             every other cut is as fast: x comes from the L2.
//   gradient  its reduction is paid once for two tiles, which with 32 columns fit the L1: 1.02 at d = .5
//             (768x768), 1.10 with one tile of 64 columns, 1.16 with two. Rows of fewer weights want wider
//             panels: .57 at d = .25 with two tiles of 64 columns (2048x2048), .60 with 32.
//   backward  128 tokens where the products are quick: .58 ms at d = .01 (768x768), .68 with 256. Where
//             they are slow, the gradient is read and written once in more of them: 1.15 with 512, 1.51 with
//             256 (values gradient of 2048x2048 at d = .5).
TileShape of_16_lanes(double density) {
  return density >= .4    ? TileShape{128, 3, {64, 256}, {32, 256}, 2, 512}
         : density >= .2  ? TileShape{128, 3, {64, 512}, {64, 512}, 2, 512}
         : density >= .08 ? TileShape{64, 2, {160, 512}, {128, 512}, 2, 256}
         : density >= .04 ? TileShape{64, 2, {256, 512}, {1024, 640}, 2, 128}
                          : TileShape{64, 2, {kNoPanel, 512}, {1024, 640}, 2, 128};
}

}  // namespace

TileShape tile_shape(const Pattern& pattern, std::int64_t tokens, std::int64_t threads, int lanes) {
  const double positions = static_cast<double>(pattern.rows) * static_cast<double>(pattern.cols);
  const double density = positions > 0 ? static_cast<double>(pattern.nnz) / positions : 0;
  TileShape shape = lanes < 16 ? of_8_lanes(density) : of_16_lanes(density);
  // Few tokens: narrower tiles, so that less of them is padding, whose panels have as many bytes.
  for (; shape.width > 16 && shape.width / 2 >= tokens; shape.width /= 2) {
    shape.product.panel = std::min(2 * shape.product.panel, kNoPanel);
    shape.gradient.panel = std::min(2 * shape.gradient.panel, kNoPanel);
  }
  while (kPassTokens[shape.pass] > shape.width) --shape.pass;
  // Sorting a panel's rows costs about what their loops mispredict in two tiles: at 64 tokens a forward took
  // up to 1.2 times as long.
  shape.product.by_length = tokens >= 4 * shape.width;
  shape.product.block = shared(shape.product.block, std::min(pattern.rows, pattern.cols), threads);
  shape.gradient.block = shared(shape.gradient.block, pattern.rows, threads);
  return shape;
}

}  // namespace smet::kernels::cpu
