// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/expand_gemm.h"

#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "kernels/gather.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops::expand_gemm {
namespace {

using kernels::Tile;

// One scratch buffer, seen as a row-major tile of the shape at hand.
class Scratch {
 public:
  Scratch(TileShape shape, at::TensorOptions options)
      : buffer_(at::empty({shape.rows * shape.cols}, options)) {}

  at::Tensor view(const Tile& tile) const {
    const int64_t rows = tile.row_end - tile.row_begin;
    const int64_t cols = tile.col_end - tile.col_begin;
    return buffer_.narrow(0, 0, rows * cols).view({rows, cols});
  }

 private:
  at::Tensor buffer_;
};

template <typename F>
void for_each_tile(int64_t rows, int64_t cols, TileShape shape, F&& body) {
  for (int64_t row = 0; row < rows; row += shape.rows) {
    for (int64_t col = 0; col < cols; col += shape.cols) {
      body(Tile{row, std::min(rows, row + shape.rows), col, std::min(cols, col + shape.cols)});
    }
  }
}

at::Tensor columns(const at::Tensor& matrix, int64_t begin, int64_t end) {
  return matrix.narrow(1, begin, end - begin);
}

// A bf16 matrix product is 8x slower than fp32 where the CPU has no unit for it, and rounds more than once:
// reduced types are converted once per call and everything below is fp32.
at::Tensor widened(const at::Tensor& tensor) {
  return tensor.to(compute_type(tensor.scalar_type()));
}

// W tile by tile: body(tile, w).
template <typename F>
void for_each_weight_tile(const SparseProblem& problem, const at::Tensor& values, F&& body) {
  const auto& pattern = problem.pattern;
  const auto compute = compute_type(problem.dtype);
  const TileShape shape = tile_shape(pattern.rows, pattern.cols, compute);
  const Scratch scratch(shape, values.options().dtype(compute));
  for_each_tile(pattern.rows, pattern.cols, shape, [&](const Tile& tile) {
    at::Tensor w = scratch.view(tile);
    check_status(kernels::cpu::expand(executor(), {.pattern = pattern,
                                                   .tile = tile,
                                                   .values = values.const_data_ptr(),
                                                   .values_dtype = dtype_tag(problem.dtype, "values"),
                                                   .dense = w.mutable_data_ptr(),
                                                   .dense_dtype = dtype_tag(compute, "scratch"),
                                                   .stride = w.size(1)}),
                 "sparse_linear");
    body(tile, w);
  });
}

}  // namespace

int64_t scratch_bytes() {
  return kScratchBytesPerThread * at::get_num_threads();
}

TileShape tile_shape(int64_t rows, int64_t cols, at::ScalarType compute) {
  const int64_t elements = scratch_bytes() / static_cast<int64_t>(c10::elementSize(compute));
  const int64_t widest = elements / kMinTileRows / kernels::kSegmentColumns * kernels::kSegmentColumns;
  const int64_t width = std::min(cols, std::max(widest, kernels::kSegmentColumns));
  return {std::clamp<int64_t>(elements / std::max<int64_t>(width, 1), 1, std::max<int64_t>(rows, 1)), width};
}

void for_each_gradient_tile(const at::Tensor& dy, const at::Tensor& x,
                            const std::function<void(const Tile&, const at::Tensor&)>& body) {
  const int64_t rows = dy.size(1);
  const int64_t cols = x.size(1);
  const TileShape shape = tile_shape(rows, cols, x.scalar_type());
  const Scratch scratch(shape, x.options());
  for_each_tile(rows, cols, shape, [&](const Tile& tile) {
    at::Tensor dw = scratch.view(tile);
    at::mm_out(dw, columns(dy, tile.row_begin, tile.row_end).t(), columns(x, tile.col_begin, tile.col_end));
    body(tile, dw);
  });
}

at::Tensor forward(const SparseProblem& problem, const at::Tensor& x, const at::Tensor& values,
                   const std::optional<at::Tensor>& bias) {
  const at::Tensor wide = widened(x);
  at::Tensor y = at::empty({x.size(0), problem.pattern.rows}, wide.options());
  const at::Tensor wide_bias = bias ? widened(*bias) : at::Tensor();
  if (problem.pattern.cols == 0) return (bias ? y.copy_(wide_bias) : y.zero_()).to(problem.dtype);
  for_each_weight_tile(problem, values, [&](const Tile& tile, const at::Tensor& w) {
    at::Tensor target = columns(y, tile.row_begin, tile.row_end);
    const at::Tensor source = columns(wide, tile.col_begin, tile.col_end);
    if (tile.col_begin > 0) {
      target.addmm_(source, w.t());
    } else if (bias) {
      at::addmm_out(target, wide_bias.narrow(0, tile.row_begin, w.size(0)), source, w.t());
    } else {
      at::mm_out(target, source, w.t());
    }
  });
  return y.to(problem.dtype);
}

namespace {

at::Tensor backward_input(const SparseProblem& problem, const at::Tensor& dy, const at::Tensor& values) {
  const at::Tensor wide = widened(dy);
  at::Tensor dx = at::empty({dy.size(0), problem.pattern.cols}, wide.options());
  if (problem.pattern.rows == 0) return dx.zero_().to(problem.dtype);
  for_each_weight_tile(problem, values, [&](const Tile& tile, const at::Tensor& w) {
    at::Tensor target = columns(dx, tile.col_begin, tile.col_end);
    const at::Tensor source = columns(wide, tile.row_begin, tile.row_end);
    if (tile.row_begin == 0) {
      at::mm_out(target, source, w);
    } else {
      target.addmm_(source, w);
    }
  });
  return dx.to(problem.dtype);
}

at::Tensor backward_values(const SparseProblem& problem, const at::Tensor& dy, const at::Tensor& x) {
  at::Tensor grad = at::empty({problem.pattern.nnz}, x.options());
  const at::Tensor wide_x = widened(x);
  for_each_gradient_tile(widened(dy), wide_x, [&](const Tile& tile, const at::Tensor& dw) {
    check_status(kernels::cpu::gather(executor(), {.pattern = problem.pattern,
                                                   .tile = tile,
                                                   .dense = dw.const_data_ptr(),
                                                   .dense_dtype = dtype_tag(dw.scalar_type(), "scratch"),
                                                   .stride = dw.size(1),
                                                   .out = grad.mutable_data_ptr(),
                                                   .out_dtype = dtype_tag(problem.dtype, "values"),
                                                   .accumulate = false}),
                 "sparse_linear_backward_values");
  });
  return grad;
}

}  // namespace

Gradients backward(const SparseProblem& problem, const at::Tensor& dy, const at::Tensor& x,
                   const at::Tensor& values, bool want_input, bool want_values) {
  return {want_input ? backward_input(problem, dy, values) : at::Tensor(),
          want_values ? backward_values(problem, dy, x) : at::Tensor()};
}

}  // namespace smet::ops::expand_gemm
