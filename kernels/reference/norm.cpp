// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/norm.h"

#include "kernels/reference/elements.h"

namespace smet::kernels::reference {

Status sum_of_squares(const Executor& /*executor*/, const Buffer* buffers, std::int64_t count, double* sum) {
  *sum = 0;
  for (std::int64_t b = 0; b < count; ++b) {
    for (std::int64_t i = 0; i < buffers[b].size; ++i) {
      const double x = load(buffers[b].data, buffers[b].dtype, i);
      *sum += x * x;
    }
  }
  return Status::ok;
}

}  // namespace smet::kernels::reference
