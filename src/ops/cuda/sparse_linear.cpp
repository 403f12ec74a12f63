// SPDX-License-Identifier: BSD-3-Clause
// sparse_linear and its gradients on the device: panels of W are expanded into bounded scratch and handed to
// torch's matrix product, panels of dW are computed there and gathered at once. The products are in the dtype
// of the activations (bf16 and fp16 with fp32 sums), so every element is rounded once, as on the CPU.
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <vector>

#include "kernels/gather.h"
#include "src/ops/below_autograd.h"
#include "src/ops/cuda/device.h"
#include "src/ops/cuda/operators.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops::cuda {
namespace {

// Scratch of one call: a panel of whole rows that stays in the L2 cache between expand and the matrix
// product.
constexpr int64_t kScratchBytes = int64_t{16} << 20;

struct Problem {
  kernels::Pattern pattern;
  kernels::DType dtype;
  const char* op;
};

// A matrix [tokens, features] of an activation tensor, with unit stride along the features.
Tensor flatten(const Tensor& tensor, int64_t features, const char* op, const char* argument) {
  TORCH_CHECK_VALUE(tensor.dim() >= 1 && tensor.size(-1) == features, "smet::", op, ": ", argument,
                    " has shape ", tensor.sizes(), "; expected a last dimension of ", features);
  int64_t tokens = 1;
  for (int64_t dim = 0; dim + 1 < tensor.dim(); ++dim) tokens *= tensor.size(dim);
  const Tensor matrix = tensor.reshape({tokens, features});
  return matrix.stride(1) == 1 && matrix.stride(0) >= features ? matrix : matrix.contiguous();
}

at::DimVector with_last(const Tensor& tensor, int64_t features) {
  at::DimVector shape(tensor.sizes());
  shape.back() = features;
  return shape;
}

void check_same(const Tensor& tensor, const Tensor& like, const char* op, const char* argument,
                const char* like_name) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == like.scalar_type(), "smet::", op, ": ", argument, " has dtype ",
                   tensor.scalar_type(), " and ", like_name, " ", like.scalar_type(),
                   "; expected the same. Convert one of them, or use torch.autocast");
  TORCH_CHECK_VALUE(tensor.device() == like.device(), "smet::", op, ": ", argument, " is on ",
                    tensor.device(), " and ", like_name, " on ", like.device(), "; expected the same device");
}

Problem make_problem(const Tensor& activations, const Tensor& mask, const Tensor& rank, int64_t cols,
                     int64_t n, std::string_view algorithm, const char* op) {
  TORCH_CHECK_VALUE(algorithm == "auto" || algorithm == "expand_gemm", "smet: unknown algorithm '", algorithm,
                    "' for device ", activations.device(),
                    " (layer option `algorithm`); known: auto, expand_gemm");
  TORCH_CHECK_VALUE(mask.device() == activations.device() && rank.device() == activations.device(),
                    "smet: mask is on ", mask.device(), ", rank on ", rank.device(), ", activations on ",
                    activations.device(), "; expected one device");
  return {make_pattern(mask, rank, cols, n), dtype_tag(activations.scalar_type(), "input"), op};
}

int64_t rows(const kernels::Tile& tile) {
  return tile.row_end - tile.row_begin;
}
int64_t cols(const kernels::Tile& tile) {
  return tile.col_end - tile.col_begin;
}

// Panels of whole rows: what forward and the values gradient want, whose sums run along the columns or the
// tokens.
std::vector<kernels::Tile> row_panels(const Problem& problem) {
  const auto& pattern = problem.pattern;
  const int64_t row_bytes = std::max<int64_t>(pattern.cols * kernels::element_size(problem.dtype), 1);
  const int64_t height = std::max<int64_t>(kScratchBytes / row_bytes, 1);
  std::vector<kernels::Tile> panels;
  for (int64_t row = 0; row < pattern.rows; row += height) {
    panels.push_back({row, std::min(pattern.rows, row + height), 0, pattern.cols});
  }
  return panels;
}

// Panels of whole columns, for the input gradient, whose sums run along the rows: no sum is ever split. One
// is at least a segment wide.
std::vector<kernels::Tile> column_panels(const Problem& problem) {
  const auto& pattern = problem.pattern;
  const int64_t segment_bytes =
      std::max<int64_t>(pattern.rows, 1) * kernels::kSegmentColumns * kernels::element_size(problem.dtype);
  const int64_t width = std::max<int64_t>(kScratchBytes / segment_bytes, 1) * kernels::kSegmentColumns;
  std::vector<kernels::Tile> panels;
  for (int64_t col = 0; col < pattern.cols; col += width) {
    panels.push_back({0, pattern.rows, col, std::min(pattern.cols, col + width)});
  }
  return panels;
}

// body(tile, panel): one buffer, seen as a row-major matrix of each tile's shape.
template <typename Body>
void for_each_panel(const std::vector<kernels::Tile>& tiles, const at::TensorOptions& options,
                    const Body& body) {
  if (tiles.empty()) return;
  const Tensor buffer = at::empty({rows(tiles.front()) * cols(tiles.front())}, options);
  for (const kernels::Tile& tile : tiles) {
    body(tile, buffer.narrow(0, 0, rows(tile) * cols(tile)).view({rows(tile), cols(tile)}));
  }
}

// The same, with the tile of W in the panel.
template <typename Body>
void for_each_weight_panel(const Problem& problem, const std::vector<kernels::Tile>& tiles,
                           const OnDevice& device, const Tensor& values, const Body& body) {
  for_each_panel(tiles, values.options(), [&](const kernels::Tile& tile, const Tensor& w) {
    check_status(kernels::cuda::expand(device.stream(), {.pattern = problem.pattern,
                                                         .tile = tile,
                                                         .values = values.const_data_ptr(),
                                                         .values_dtype = problem.dtype,
                                                         .dense = w.mutable_data_ptr(),
                                                         .dense_dtype = problem.dtype,
                                                         .stride = w.size(1)}),
                 problem.op);
    body(tile, w);
  });
}

Tensor columns(const Tensor& matrix, int64_t begin, int64_t end) {
  return matrix.narrow(1, begin, end - begin);
}

// dx = dy W
Tensor input_gradient(const Problem& problem, const OnDevice& device, const Tensor& dy,
                      const Tensor& values) {
  Tensor dx = at::empty({dy.size(0), problem.pattern.cols}, dy.options());
  if (problem.pattern.rows == 0) return dx.zero_();
  if (dx.numel() == 0) return dx;
  for_each_weight_panel(problem, column_panels(problem), device, values,
                        [&](const kernels::Tile& tile, const Tensor& w) {
                          Tensor target = columns(dx, tile.col_begin, tile.col_end);
                          at::mm_out(target, dy, w);
                        });
  return dx;
}

Tensor values_gradient(const Problem& problem, const OnDevice& device, const Tensor& dy, const Tensor& x) {
  Tensor grad = at::empty({problem.pattern.nnz}, x.options());
  if (problem.pattern.nnz == 0 || x.size(0) == 0) return grad.zero_();
  for_each_panel(row_panels(problem), x.options(), [&](const kernels::Tile& tile, Tensor dw) {
    at::mm_out(dw, columns(dy, tile.row_begin, tile.row_end).t(), x);
    check_status(kernels::cuda::gather(device.stream(), {.pattern = problem.pattern,
                                                         .tile = tile,
                                                         .dense = dw.const_data_ptr(),
                                                         .dense_dtype = problem.dtype,
                                                         .stride = problem.pattern.cols,
                                                         .out = grad.mutable_data_ptr(),
                                                         .out_dtype = problem.dtype,
                                                         .accumulate = false}),
                 problem.op);
  });
  return grad;
}

}  // namespace

Tensor sparse_linear(const Tensor& input, const Tensor& values, const Tensor& mask, const Tensor& rank,
                     const OptionalTensor& bias, std::string_view algorithm) {
  constexpr const char* op = "sparse_linear";
  const BelowAutograd guard;
  const OnDevice device(input);
  check_same(input, values, op, "input", "values");
  TORCH_CHECK_VALUE(input.dim() >= 1, "smet::", op, ": input has no dimensions; expected [..., in_features]");
  const Problem problem = make_problem(input, mask, rank, input.size(-1), values.numel(), algorithm, op);
  const int64_t out_features = problem.pattern.rows;
  if (bias) {
    check_same(*bias, values, op, "bias", "values");
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == out_features, "smet::", op, ": bias has shape ",
                      bias->sizes(), "; expected [", out_features, "]");
  }
  const Tensor x = flatten(input, input.size(-1), op, "input");
  Tensor y = at::empty({x.size(0), out_features}, x.options());
  const auto shape = with_last(input, out_features);
  if (y.numel() == 0) return y.view(shape);
  for_each_weight_panel(problem, row_panels(problem), device, values.contiguous(),
                        [&](const kernels::Tile& tile, const Tensor& w) {
                          Tensor target = columns(y, tile.row_begin, tile.row_end);
                          if (bias) {
                            at::addmm_out(target, bias->narrow(0, tile.row_begin, w.size(0)), x, w.t());
                          } else {
                            at::mm_out(target, x, w.t());
                          }
                        });
  return y.view(shape);
}

Tensor sparse_linear_backward_input(const Tensor& grad_output, const Tensor& values, const Tensor& mask,
                                    const Tensor& rank, int64_t in_features, std::string_view algorithm) {
  constexpr const char* op = "sparse_linear_backward_input";
  const BelowAutograd guard;
  const OnDevice device(grad_output);
  check_same(grad_output, values, op, "grad_output", "values");
  const Problem problem = make_problem(grad_output, mask, rank, in_features, values.numel(), algorithm, op);
  const Tensor dy = flatten(grad_output, problem.pattern.rows, op, "grad_output");
  return input_gradient(problem, device, dy, values.contiguous()).view(with_last(grad_output, in_features));
}

Tensor sparse_linear_backward_values(const Tensor& grad_output, const Tensor& input, const Tensor& mask,
                                     const Tensor& rank, int64_t n, std::string_view algorithm) {
  constexpr const char* op = "sparse_linear_backward_values";
  const BelowAutograd guard;
  const OnDevice device(input);
  check_same(grad_output, input, op, "grad_output", "input");
  TORCH_CHECK_VALUE(input.dim() >= 1, "smet::", op, ": input has no dimensions; expected [..., in_features]");
  const Problem problem = make_problem(input, mask, rank, input.size(-1), n, algorithm, op);
  const Tensor dy = flatten(grad_output, problem.pattern.rows, op, "grad_output");
  const Tensor x = flatten(input, input.size(-1), op, "input");
  TORCH_CHECK_VALUE(dy.size(0) == x.size(0), "smet::", op, ": grad_output has shape ", grad_output.sizes(),
                    " and input ", input.sizes(), "; expected the same leading dimensions");
  return values_gradient(problem, device, dy, x);
}

std::tuple<Tensor, Tensor> sparse_linear_backward(const Tensor& grad_output, const Tensor& input,
                                                  const Tensor& values, const Tensor& mask,
                                                  const Tensor& rank, std::string_view algorithm) {
  return {sparse_linear_backward_input(grad_output, values, mask, rank, input.size(-1), algorithm),
          sparse_linear_backward_values(grad_output, input, mask, rank, values.numel(), algorithm)};
}

}  // namespace smet::ops::cuda
