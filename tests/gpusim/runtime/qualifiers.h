// SPDX-License-Identifier: BSD-3-Clause
// CUDA's keywords and built-in variables for the host compiler.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <cstddef>

#include "shared_memory.h"

// NVIDIA's headers expand them to attributes g++ does not know.
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ \
  static_assert(false, "gpusim: declare shared arrays with SMET_SHARED of kernels/cuda/shared.cuh");
#define __forceinline__ inline
#define __launch_bounds__(...)

// What kernels/cuda/shared.cuh defines for nvcc. A static shared array is one address range per block,
// however many functions call the one that declares it.
#define SMET_SHARED(type, name, ...)              \
  static char gpusim_key_##name;                  \
  using gpusim_type_##name = type __VA_ARGS__;    \
  auto& name = *static_cast<gpusim_type_##name*>( \
      gpusim::static_shared(&gpusim_key_##name, #name, sizeof(gpusim_type_##name)))
#define SMET_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(gpusim::dynamic_shared())

// Set by the scheduler whenever it resumes a thread. Not const: the compiler must reload them after a
// collective.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;
