// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/sparse_linear.h"

#include <new>
#include <vector>

#include "kernels/reference/elements.h"

namespace smet::kernels::reference {
namespace {

// body(index, row, col) for every active weight, in packed order.
template <typename F>
void for_each_active(const Pattern& pattern, F&& body) {
  std::int64_t index = 0;
  for (std::int64_t row = 0; row < pattern.rows; ++row) {
    for (std::int64_t col = 0; col < pattern.cols; ++col) {
      if (is_active(pattern.mask, pattern.cols, row, col)) body(index++, row, col);
    }
  }
}

}  // namespace

Status sparse_linear(const Executor& /*executor*/, const SparseLinearArgs& args) try {
  std::vector<double> y(static_cast<std::size_t>(args.pattern.rows));
  for (std::int64_t token = 0; token < args.tokens; ++token) {
    for (std::int64_t row = 0; row < args.pattern.rows; ++row) {
      y[static_cast<std::size_t>(row)] = args.bias == nullptr ? 0 : load(args.bias, args.dtype, row);
    }
    for_each_active(args.pattern, [&](std::int64_t index, std::int64_t row, std::int64_t col) {
      y[static_cast<std::size_t>(row)] +=
          load(args.values, args.dtype, index) * load(args.x, args.dtype, token * args.x_stride + col);
    });
    for (std::int64_t row = 0; row < args.pattern.rows; ++row) {
      store(args.y, args.dtype, token * args.y_stride + row, y[static_cast<std::size_t>(row)]);
    }
  }
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

Status sparse_linear_backward(const Executor& /*executor*/, const SparseLinearBackwardArgs& args) try {
  std::vector<double> dx(static_cast<std::size_t>(args.pattern.cols));
  for (std::int64_t token = 0; token < args.tokens && args.dx != nullptr; ++token) {
    dx.assign(dx.size(), 0);
    for_each_active(args.pattern, [&](std::int64_t index, std::int64_t row, std::int64_t col) {
      dx[static_cast<std::size_t>(col)] +=
          load(args.values, args.dtype, index) * load(args.dy, args.dtype, token * args.dy_stride + row);
    });
    for (std::int64_t col = 0; col < args.pattern.cols; ++col) {
      store(args.dx, args.dtype, token * args.dx_stride + col, dx[static_cast<std::size_t>(col)]);
    }
  }
  if (args.dvalues == nullptr) return Status::ok;
  for_each_active(args.pattern, [&](std::int64_t index, std::int64_t row, std::int64_t col) {
    double sum = 0;
    for (std::int64_t token = 0; token < args.tokens; ++token) {
      sum += load(args.dy, args.dtype, token * args.dy_stride + row) *
             load(args.x, args.dtype, token * args.x_stride + col);
    }
    store(args.dvalues, args.dtype, index, sum);
  });
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

}  // namespace smet::kernels::reference
