// SPDX-License-Identifier: BSD-3-Clause
// adamw_compact, inner loops: adamw_step's on bf16 and on 8-bit moments.
#include "kernels/cpu/isa/adamw_block8.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {

extern const AdamWCompactKernels kAdamWCompact;
const AdamWCompactKernels kAdamWCompact = {
    {adamw_chunk<F32, Bf16Moments>, nullptr, adamw_chunk<Bf16, Bf16Moments>, adamw_chunk<F16, Bf16Moments>},
    {block8_chunk<F32>, nullptr, block8_chunk<Bf16>, block8_chunk<F16>},
};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
