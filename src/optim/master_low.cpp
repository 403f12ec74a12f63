// SPDX-License-Identifier: BSD-3-Clause
#include "src/optim/master_low.h"

#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

namespace smet {

void check_master_option(at::ScalarType param, bool master_weights) {
  TORCH_CHECK_TYPE(!master_weights || param != at::kHalf,
                   "smet: CompactAdamW got a float16 parameter and master_weights=True; expected bfloat16 or "
                   "float32. Put it into a group of its own");
}

at::Tensor new_master_low(const at::Tensor& param, bool master_weights) {
  if (!master_weights || param.scalar_type() != at::kBFloat16) return {};
  return at::zeros_like(param, at::TensorOptions(at::kShort).requires_grad(false));
}

std::string master_low_problem(const at::Tensor& param, const at::Tensor& saved) {
  if (!saved.defined() || (saved.scalar_type() == at::kShort && saved.sizes() == param.sizes())) return "";
  return c10::str("'master_low' is ", saved.scalar_type(), " ", saved.sizes(), ", expected int16 ",
                  param.sizes());
}

void copy_master_low_(const at::Tensor& to, const at::Tensor& saved) {
  if (!to.defined()) return;
  if (saved.defined()) {
    to.copy_(saved);
  } else {
    to.zero_();
  }
}

}  // namespace smet
