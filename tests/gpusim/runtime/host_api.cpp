// SPDX-License-Identifier: BSD-3-Clause
// The few calls of the CUDA runtime that launchers make, with the declarations of NVIDIA's own header.
// Compiled with hidden visibility: a process that also loads libcudart keeps the real ones for everybody
// else.
#include <cuda_runtime_api.h>

#include <cstring>
#include <utility>

#include "gpusim.h"

namespace {

void check_stream(cudaStream_t stream, const char* what) {
  if (stream != gpusim::stream())
    throw gpusim::Error(std::string(what) + " on a stream other than the launcher's");
}

gpusim::Recording* current_recording = nullptr;

template <typename Work>
void run(const Work& work) {
  work();
  if (gpusim::recording()) gpusim::keep_for_replay(work);
}

}  // namespace

namespace gpusim {

Recording::Recording() {
  if (current_recording != nullptr) throw Error("two recordings at a time");
  current_recording = this;
}
Recording::~Recording() {
  stop();
}
void Recording::stop() {
  if (current_recording == this) current_recording = nullptr;
}
void Recording::replay() const {
  if (recording()) throw Error("a replay while a recording is made");
  for (const auto& work : work_) work();
}
bool recording() {
  return current_recording != nullptr;
}
void keep_for_replay(std::function<void()> work) {
  current_recording->work_.push_back(std::move(work));
}

}  // namespace gpusim

cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t stream) {
  check_stream(stream, "cudaMemsetAsync");
  run([=] { std::memset(pointer, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  check_stream(stream, "cudaMemcpyAsync");
  run([=] { std::memcpy(to, from, bytes); });
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
