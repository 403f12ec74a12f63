// SPDX-License-Identifier: BSD-3-Clause
// expand_gemm: tiles of W are expanded into bounded scratch and handed to the dense matrix product; tiles of
// dW are computed there and gathered at once. No dense W or dW of a layer exists, unless it fits one tile.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>

#include "kernels/expand.h"
#include "src/ops/algorithm_table.h"

namespace smet::ops::expand_gemm {

// Scratch of one call: this many bytes for each intra-op thread. 2 MiB keeps the panels of a 2-thread run in
// a usual L3 cache and leaves the matrix product about as fast as on the whole W.
inline constexpr int64_t kScratchBytesPerThread = int64_t{2} << 20;

// The bound that holds now: kScratchBytesPerThread * at::get_num_threads().
int64_t scratch_bytes();

// Tile height and width for a rows x cols matrix within scratch_bytes(): whole rows where at least
// kMinTileRows of them fit, else panels of columns (a multiple of 1,024).
inline constexpr int64_t kMinTileRows = 256;
struct TileShape {
  int64_t rows, cols;
};
TileShape tile_shape(int64_t rows, int64_t cols, at::ScalarType compute);

// body(tile, dw) with dw [tile rows, tile cols] = dy[:, tile rows]^T x[:, tile columns], for tiles that cover
// rows x cols of dW in row-major order. dy and x are 2-D in fp32 or fp64; dw is valid during the call.
void for_each_gradient_tile(const at::Tensor& dy, const at::Tensor& x,
                            const std::function<void(const kernels::Tile&, const at::Tensor& dw)>& body);

at::Tensor forward(const SparseProblem& problem, const at::Tensor& x, const at::Tensor& values,
                   const std::optional<at::Tensor>& bias);
Gradients backward(const SparseProblem& problem, const at::Tensor& dy, const at::Tensor& x,
                   const at::Tensor& values, bool want_input, bool want_values);

}  // namespace smet::ops::expand_gemm
