// SPDX-License-Identifier: BSD-3-Clause
// The table of one instruction set's inner loops.
#include "kernels/cpu/isa_kernels.h"

#define SMET_STRING_(x) #x
#define SMET_STRING(x) SMET_STRING_(x)

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {

extern const AdamWKernels kAdamWStep;
extern const AdamWCompactKernels kAdamWCompact;
extern const ExpandKernels kExpand;
extern const GatherKernels kGather;
extern const MaskKernels kMask;
extern const SelectKernels kSelect;
extern const RelayoutKernels kRelayout;
extern const TileProducts kTileProducts;
extern const TileLayout kTileLayout;
extern const TileDecode kTileDecode;

const IsaKernels kKernels = {
    SMET_STRING(SMET_ISA_NAMESPACE),
    &kAdamWStep,
    &kAdamWCompact,
    &kExpand,
    &kGather,
    &kMask,
    &kSelect,
    &kRelayout,
    &kTileProducts,
    &kTileLayout,
    &kTileDecode,
};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
