// SPDX-License-Identifier: BSD-3-Clause
// One source for every instruction set: GCC's vector types of the set's natural width. Only for
// kernels/cpu/isa: everything is in an unnamed namespace (see isa_kernels.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/tile_kernels.h"
#include "kernels/half.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

template <int lanes>
struct Lanes {
  typedef float Type __attribute__((vector_size(4 * lanes)));
};
template <int lanes>
using VectorOf = typename Lanes<lanes>::Type;
using Vector = VectorOf<kLanes>;
using Vector4 = VectorOf<4>;
using Vector8 = VectorOf<8>;

// memcpy of a vector's size is one unaligned load or store.
template <typename V = Vector>
inline V load(const float* from) {
  V x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
template <typename V>
inline void store(float* to, V x) {
  std::memcpy(to, &x, sizeof x);
}
// Packed activations are aligned to whole vectors.
template <typename V = Vector>
inline V load_aligned(const float* from) {
  return *reinterpret_cast<const V*>(__builtin_assume_aligned(from, sizeof(V)));
}
template <typename V>
inline void store_aligned(float* to, V x) {
  *reinterpret_cast<V*>(__builtin_assume_aligned(to, sizeof(V))) = x;
}

// 0, 1, ..., n - 1 as a pack.
template <int... numbers>
struct Pack {};
template <int n, int... numbers>
struct Count : Count<n - 1, n - 1, numbers...> {};
template <int... numbers>
struct Count<0, numbers...> {
  using Type = Pack<numbers...>;
};
using LanePlaces = typename Count<kLanes>::Type;

// Every four lanes become a[from] b[from] a[from + 1] b[from + 1], or
// a[from] a[from + 1] b[from] b[from + 1].
template <int from, int... i>
inline Vector interleave(Vector a, Vector b, Pack<i...> /*places*/) {
  return __builtin_shufflevector(a, b, (i / 4 * 4 + from + i % 4 / 2 + i % 2 * kLanes)...);
}
template <int from, int... i>
inline Vector pair(Vector a, Vector b, Pack<i...> /*places*/) {
  return __builtin_shufflevector(a, b, (i / 4 * 4 + from + i % 2 + i % 4 / 2 * kLanes)...);
}

// Storage element types and their conversions.
template <Storage>
struct Stored;
template <>
struct Stored<Storage::f32> {
  using Type = float;
  static float widen(float x) { return x; }
  static float narrow(float x) { return x; }
};
template <>
struct Stored<Storage::bf16> {
  using Type = std::uint16_t;
  static float widen(std::uint16_t x) { return bf16_to_f32(x); }
  static std::uint16_t narrow(float x) { return f32_to_bf16(x); }
};
template <>
struct Stored<Storage::f16> {
  using Type = std::uint16_t;
  static float widen(std::uint16_t x) { return f16_to_f32(x); }
  static std::uint16_t narrow(float x) { return f32_to_f16(x); }
};

}  // namespace
}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
