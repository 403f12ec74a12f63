// SPDX-License-Identifier: BSD-3-Clause
// keyed_draws: choose k inactive positions of a mask uniformly, without listing the inactive ones.
#pragma once

#include "kernels/types.h"

namespace smet::kernels {

// What a stream of draws is for; part of the counter, so that streams never overlap.
enum class DrawStream : std::uint32_t { initial = 0, grow = 1, scores = 2, init_values = 3 };

// Draw number j of (key, stream, update): 64 random bits, words (2h, 2h + 1) with h = j % 2 of
//   philox4x32_10({low32(j / 2), high32(j / 2), update, stream}, {low32(key), high32(key)}),
// first word low. `key` is layer_key(seed, name) of src/topology.
std::uint64_t keyed_draw(std::uint64_t key, DrawStream stream, std::uint32_t update, std::uint64_t j);

// Draw j names the flat position floor(draw * (rows * cols) / 2^64). The chosen set is the first k *distinct
// inactive* positions in the order of j: every k-subset is equally likely (up to the 2^-64 granularity of a
// draw), and the set is a function of (key, stream, update, mask) alone. When k is more than half of the
// inactive positions, the k' = inactive - k positions that are *left out* are drawn that way instead, so the
// expected number of draws never passes 0.7 rows * cols. Writes `chosen`, a bitmap of the mask's shape with
// exactly k bits, none in mask. invalid_argument unless 0 <= k <= inactive and `inactive` is the mask's.
struct DrawPositionsArgs {
  const std::uint32_t* mask;  // [rows, words_per_row(cols)]
  std::int64_t rows, cols;
  std::int64_t inactive;  // rows * cols - active
  std::int64_t k;
  std::uint64_t key;
  DrawStream stream;
  std::uint32_t update;
  std::uint32_t* chosen;  // [rows, words_per_row(cols)], overwritten
};

namespace reference {
Status draw_positions(const DrawPositionsArgs& args);
}
namespace cpu {
// At most 1.1 MB of scratch. Out of memory: `chosen` is in an undefined state.
Status draw_positions(const Executor& executor, const DrawPositionsArgs& args);
}  // namespace cpu
namespace cuda {
// *fault = 1, and nothing is chosen, where `inactive` is not the mask's: only the device can see that.
std::int64_t draw_positions_scratch();
Status draw_positions(Stream stream, const DrawPositionsArgs& args, std::int32_t* fault, void* scratch);
}  // namespace cuda

}  // namespace smet::kernels
