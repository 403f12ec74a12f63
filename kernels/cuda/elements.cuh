// SPDX-License-Identifier: BSD-3-Clause
// Storage types of numbers: their compute type, and the way there and back.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/half.h"

namespace smet::kernels::cuda {

struct F32 {
  using Storage = float;
  using Compute = float;
  __device__ static Compute load(Storage x) { return x; }
  __device__ static Storage store(Compute x) { return x; }
};
struct F64 {
  using Storage = double;
  using Compute = double;
  __device__ static Compute load(Storage x) { return x; }
  __device__ static Storage store(Compute x) { return x; }
};
struct Bf16 {
  using Storage = std::uint16_t;
  using Compute = float;
  __device__ static Compute load(Storage x) { return bf16_to_f32(x); }
  __device__ static Storage store(Compute x) { return f32_to_bf16(x); }
};
struct F16 {
  using Storage = std::uint16_t;
  using Compute = float;
  __device__ static Compute load(Storage x) { return f16_to_f32(x); }
  __device__ static Storage store(Compute x) { return f32_to_f16(x); }
};

// The same number as another type: the bits of its own, else through the compute type.
template <typename From, typename To>
__device__ __forceinline__ typename To::Storage convert(typename From::Storage x) {
  if constexpr (std::is_same_v<From, To>) {
    return x;
  } else {
    return To::store(From::load(x));
  }
}

}  // namespace smet::kernels::cuda
