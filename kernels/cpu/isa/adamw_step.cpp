// SPDX-License-Identifier: BSD-3-Clause
// adamw_step, inner loops.
#include "kernels/cpu/isa/adamw_update.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

template <typename Type>
bool has_nonfinite(const void* data, std::int64_t size) {
  const auto* x = static_cast<const typename Type::Storage*>(data);
  constexpr std::int64_t kBlock = 1024;
  std::int64_t i = 0;
  for (; i + kBlock <= size; i += kBlock) {
    unsigned found = 0;
    for (std::int64_t j = 0; j < kBlock; ++j) found |= static_cast<unsigned>(Type::nonfinite(x[i + j]));
    if (found != 0) return true;
  }
  for (; i < size; ++i) {
    if (Type::nonfinite(x[i])) return true;
  }
  return false;
}

}  // namespace

extern const AdamWKernels kAdamWStep;
const AdamWKernels kAdamWStep = {
    {adamw_chunk<F32, FullMoments<float>>, adamw_chunk<F64, FullMoments<double>>,
     adamw_chunk<Bf16, FullMoments<float>>, adamw_chunk<F16, FullMoments<float>>},
    {has_nonfinite<F32>, has_nonfinite<F64>, has_nonfinite<Bf16>, has_nonfinite<F16>},
};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
