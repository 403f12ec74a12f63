// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/kernel_glue.h"

#include <ATen/Parallel.h>

#include <limits>

#include "kernels/isa.h"

namespace smet::ops {

using kernels::DType;

namespace {

// About 100 us on one thread: what waking the others costs on a busy machine, several times in a call.
constexpr int64_t kSerialOperations = int64_t{1} << 20;

}  // namespace

kernels::Executor executor(int64_t operations) {
  if (operations < kSerialOperations) {
    return {[](int64_t chunks, kernels::Executor::Body body, void* context) {
              for (int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
            },
            1};
  }
  return {[](int64_t chunks, kernels::Executor::Body body, void* context) {
            at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
              for (int64_t chunk = begin; chunk < end; ++chunk) body(context, chunk);
            });
          },
          at::get_num_threads()};
}

DType dtype_tag(at::ScalarType type, const char* argument) {
  switch (type) {
    case at::kFloat:
      return DType::f32;
    case at::kDouble:
      return DType::f64;
    case at::kBFloat16:
      return DType::bf16;
    case at::kHalf:
      return DType::f16;
    default:
      TORCH_CHECK_TYPE(false, "smet: ", argument, " has dtype ", type,
                       "; expected float32, float64, bfloat16 or float16");
  }
}

at::ScalarType compute_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

kernels::Pattern make_pattern(const at::Tensor& mask, const at::Tensor& rank, int64_t cols, int64_t n) {
  TORCH_CHECK_TYPE(mask.scalar_type() == at::kInt && rank.scalar_type() == at::kInt,
                   "smet: mask and rank must be int32, got ", mask.scalar_type(), " and ",
                   rank.scalar_type());
  TORCH_CHECK_VALUE(mask.dim() == 2 && mask.size(1) == kernels::words_per_row(cols), "smet: mask has shape ",
                    mask.sizes(), "; for ", cols, " input features expected [out, ",
                    kernels::words_per_row(cols), "]");
  TORCH_CHECK_VALUE(
      rank.dim() == 2 && rank.size(0) == mask.size(0) && rank.size(1) == kernels::segments_per_row(cols),
      "smet: rank has shape ", rank.sizes(), "; expected [", mask.size(0), ", ",
      kernels::segments_per_row(cols), "]. Derive it with torch.ops.smet.mask_rank(mask, cols)");
  TORCH_CHECK_VALUE(mask.is_contiguous() && rank.is_contiguous(), "smet: mask and rank must be contiguous");
  TORCH_CHECK_VALUE(n >= 0 && n <= std::numeric_limits<int32_t>::max(), "smet: ", n,
                    " active weights in one layer; expected 0 to 2^31 - 1. Split the layer");
  return {reinterpret_cast<const uint32_t*>(mask.const_data_ptr<int32_t>()), rank.const_data_ptr<int32_t>(),
          mask.size(0), cols, n};
}

void check_status(kernels::Status status, const char* op) {
  switch (status) {
    case kernels::Status::ok:
      return;
    case kernels::Status::unsupported_dtype:
      TORCH_CHECK_TYPE(false, "smet::", op, ": no kernel for this combination of dtypes");
    case kernels::Status::out_of_memory:
      TORCH_CHECK_WITH(OutOfMemoryError, false, "smet::", op,
                       ": out of memory for scratch; nothing was changed");
    case kernels::Status::too_many_active:
      TORCH_CHECK_VALUE(false, "smet::", op,
                        ": more than 2^31 - 1 active weights in one layer; split the layer");
    case kernels::Status::unsupported_isa:
      TORCH_CHECK(false, "smet::", op, ": ", kernels::isa_error());
    case kernels::Status::invalid_argument:
      TORCH_CHECK_VALUE(false, "smet::", op, ": mask, rank and counts do not belong together");
    case kernels::Status::launch_failed:
      TORCH_CHECK(false, "smet::", op,
                  ": CUDA refused to launch the kernel; an earlier error on this device is the usual cause. "
                  "Run again with CUDA_LAUNCH_BLOCKING=1 to find it");
  }
}

}  // namespace smet::ops
