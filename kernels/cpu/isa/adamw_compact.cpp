// SPDX-License-Identifier: BSD-3-Clause
// adamw_compact, inner loops: adamw_step's on bf16 moments.
#include "kernels/cpu/isa/adamw_update.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {

extern const AdamWCompactKernels kAdamWCompact;
const AdamWCompactKernels kAdamWCompact = {
    {adamw_chunk<F32, Bf16Moments>, nullptr, adamw_chunk<Bf16, Bf16Moments>, adamw_chunk<F16, Bf16Moments>},
};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
