// SPDX-License-Identifier: BSD-3-Clause
// norm: the sum of squares of many tensors, for gradient clipping and reports.
#pragma once

#include "kernels/adamw_step.h"

namespace smet::kernels {

// *sum = the sum of x^2 over every element of every buffer, in double. The device adds in an order that
// depends on sizes alone, so equal buffers give equal bits; NaN or infinity in any element makes the sum NaN
// or infinite.
namespace reference {
Status sum_of_squares(const Executor& executor, const Buffer* buffers, std::int64_t count, double* sum);
}
namespace cuda {
std::int64_t sum_of_squares_scratch(const Buffer* buffers, std::int64_t count);
Status sum_of_squares(Stream stream, const Buffer* buffers, std::int64_t count, double* sum, void* scratch);
}  // namespace cuda

}  // namespace smet::kernels
