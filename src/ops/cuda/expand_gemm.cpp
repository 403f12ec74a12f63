// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/cuda/expand_gemm.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <vector>

#include "kernels/gather.h"
#include "src/ops/cuda/device.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops::cuda::expand_gemm {
namespace {

using at::Tensor;
using kernels::Tile;

// Scratch of one call: a panel of whole rows that stays in the L2 cache between expand and the matrix
// product.
constexpr int64_t kScratchBytes = int64_t{16} << 20;

int64_t rows(const Tile& tile) {
  return tile.row_end - tile.row_begin;
}
int64_t cols(const Tile& tile) {
  return tile.col_end - tile.col_begin;
}

// Panels of whole rows: what forward and the values gradient want, whose sums run along the columns or the
// tokens.
std::vector<Tile> row_panels(int64_t all_rows, int64_t all_cols, int64_t element_bytes) {
  const int64_t height = std::max<int64_t>(kScratchBytes / std::max<int64_t>(all_cols * element_bytes, 1), 1);
  std::vector<Tile> panels;
  for (int64_t row = 0; row < all_rows; row += height) {
    panels.push_back({row, std::min(all_rows, row + height), 0, all_cols});
  }
  return panels;
}

// Panels of whole columns, for the input gradient, whose sums run along the rows: no sum is ever split. One
// is at least a segment wide.
std::vector<Tile> column_panels(int64_t all_rows, int64_t all_cols, int64_t element_bytes) {
  const int64_t segment_bytes = std::max<int64_t>(all_rows, 1) * kernels::kSegmentColumns * element_bytes;
  const int64_t width = std::max<int64_t>(kScratchBytes / segment_bytes, 1) * kernels::kSegmentColumns;
  std::vector<Tile> panels;
  for (int64_t col = 0; col < all_cols; col += width) {
    panels.push_back({0, all_rows, col, std::min(all_cols, col + width)});
  }
  return panels;
}

// body(tile, panel): one buffer, seen as a row-major matrix of each tile's shape.
template <typename Body>
void for_each_panel(const std::vector<Tile>& tiles, const at::TensorOptions& options, const Body& body) {
  if (tiles.empty()) return;
  const Tensor buffer = at::empty({rows(tiles.front()) * cols(tiles.front())}, options);
  for (const Tile& tile : tiles) {
    body(tile, buffer.narrow(0, 0, rows(tile) * cols(tile)).view({rows(tile), cols(tile)}));
  }
}

// The same, with the tile of W in the panel.
template <typename Body>
void for_each_weight_panel(const SparseProblem& problem, const std::vector<Tile>& tiles,
                           const OnDevice& device, const Tensor& values, const char* op, const Body& body) {
  const auto dtype = dtype_tag(problem.dtype, "values");
  for_each_panel(tiles, values.options(), [&](const Tile& tile, const Tensor& w) {
    check_status(kernels::cuda::expand(device.stream(), {.pattern = problem.pattern,
                                                         .tile = tile,
                                                         .values = values.const_data_ptr(),
                                                         .values_dtype = dtype,
                                                         .dense = w.mutable_data_ptr(),
                                                         .dense_dtype = dtype,
                                                         .stride = w.size(1)}),
                 op);
    body(tile, w);
  });
}

Tensor columns(const Tensor& matrix, int64_t begin, int64_t end) {
  return matrix.narrow(1, begin, end - begin);
}

// dx = dy W
Tensor input_gradient(const SparseProblem& problem, const OnDevice& device, const Tensor& dy,
                      const Tensor& values) {
  const auto& pattern = problem.pattern;
  Tensor dx = at::empty({dy.size(0), pattern.cols}, dy.options());
  if (pattern.rows == 0) return dx.zero_();
  for_each_weight_panel(problem, column_panels(pattern.rows, pattern.cols, dy.element_size()), device, values,
                        "sparse_linear_backward_input", [&](const Tile& tile, const Tensor& w) {
                          Tensor target = columns(dx, tile.col_begin, tile.col_end);
                          at::mm_out(target, dy, w);
                        });
  return dx;
}

Tensor values_gradient(const SparseProblem& problem, const OnDevice& device, const Tensor& dy,
                       const Tensor& x) {
  Tensor grad = at::empty({problem.pattern.nnz}, x.options());
  const auto dtype = dtype_tag(problem.dtype, "values");
  for_each_gradient_panel(dy, x, [&](const Tile& tile, const Tensor& dw) {
    check_status(kernels::cuda::gather(device.stream(), {.pattern = problem.pattern,
                                                         .tile = tile,
                                                         .dense = dw.const_data_ptr(),
                                                         .dense_dtype = dtype,
                                                         .stride = problem.pattern.cols,
                                                         .out = grad.mutable_data_ptr(),
                                                         .out_dtype = dtype,
                                                         .accumulate = false}),
                 "sparse_linear_backward_values");
  });
  return grad;
}

}  // namespace

void for_each_gradient_panel(const Tensor& dy, const Tensor& x,
                             const std::function<void(const Tile&, const Tensor&)>& body) {
  for_each_panel(row_panels(dy.size(1), x.size(1), x.element_size()), x.options(),
                 [&](const Tile& tile, Tensor dw) {
                   at::mm_out(dw, columns(dy, tile.row_begin, tile.row_end).t(), x);
                   body(tile, dw);
                 });
}

Tensor forward(const SparseProblem& problem, const Tensor& x, const Tensor& values,
               const std::optional<Tensor>& bias) {
  const OnDevice device(x);
  const auto& pattern = problem.pattern;
  Tensor y = at::empty({x.size(0), pattern.rows}, x.options());
  for_each_weight_panel(problem, row_panels(pattern.rows, pattern.cols, x.element_size()), device, values,
                        "sparse_linear", [&](const Tile& tile, const Tensor& w) {
                          Tensor target = columns(y, tile.row_begin, tile.row_end);
                          if (bias) {
                            at::addmm_out(target, bias->narrow(0, tile.row_begin, w.size(0)), x, w.t());
                          } else {
                            at::mm_out(target, x, w.t());
                          }
                        });
  return y;
}

Gradients backward(const SparseProblem& problem, const Tensor& dy, const Tensor& x, const Tensor& values,
                   bool want_input, bool want_values) {
  const OnDevice device(dy);
  return {want_input ? input_gradient(problem, device, dy, values) : Tensor(),
          want_values ? values_gradient(problem, device, dy, x) : Tensor()};
}

}  // namespace smet::ops::cuda::expand_gemm
