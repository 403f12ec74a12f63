// SPDX-License-Identifier: BSD-3-Clause
// Shared memory, declared so that tests/gpusim, which executes these sources on the CPU, can find it, fill it
// with NaN before every block and check its bounds. There, these macros come from its <cuda_runtime.h>.
#pragma once

#include <cuda_runtime.h>

#if !defined(SMET_SHARED)
// SMET_SHARED(float, stage, [8][256]): one array per block, 16-byte aligned.
#define SMET_SHARED(type, name, ...) __shared__ alignas(16) type name __VA_ARGS__
// SMET_DYNAMIC_SHARED(float, stage): a pointer to the launch's dynamic shared memory, 16-byte aligned.
#define SMET_DYNAMIC_SHARED(type, name)                         \
  extern __shared__ __align__(16) unsigned char smet_dynamic[]; \
  type* const name = reinterpret_cast<type*>(smet_dynamic)
#endif
