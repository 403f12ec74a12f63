// SPDX-License-Identifier: BSD-3-Clause
// Stands where a kernel source looks for CUDA's header of this name; gpusim.h says what it offers.
#pragma once

#if defined(__CUDACC__)
#error "gpusim is for the host compiler: nvcc must find CUDA's own cuda_runtime.h"
#endif

#include "atomics.h"
#include "collectives.h"
#include "gpusim.h"
#include "intrinsics.h"
#include "qualifiers.h"

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->stream != gpusim::stream()) {
    throw gpusim::Error("launch on a stream other than the one the launcher was given");
  }
  gpusim::launch({config->gridDim, config->blockDim, config->dynamicSmemBytes}, kernel,
                 std::forward<Arguments>(arguments)...);
  return cudaSuccess;
}

// Above 48 KiB of dynamic shared memory a kernel has to ask first.
template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
