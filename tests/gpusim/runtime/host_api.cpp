// SPDX-License-Identifier: BSD-3-Clause
// The few calls of the CUDA runtime that launchers make, with the declarations of NVIDIA's own header.
// Compiled with hidden visibility: a process that also loads libcudart keeps the real ones for everybody
// else.
#include <cuda_runtime_api.h>

#include <cstring>

#include "gpusim.h"

namespace {

void check_stream(cudaStream_t stream, const char* what) {
  if (stream != gpusim::stream())
    throw gpusim::Error(std::string(what) + " on a stream other than the launcher's");
}

}  // namespace

cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t stream) {
  check_stream(stream, "cudaMemsetAsync");
  std::memset(pointer, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  check_stream(stream, "cudaMemcpyAsync");
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
cudaError_t cudaPeekAtLastError() {
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "error";
}
