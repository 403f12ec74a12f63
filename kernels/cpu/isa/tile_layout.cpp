// SPDX-License-Identifier: BSD-3-Clause
// tile_spmm, activations in and out of the packed layout: transposes of small blocks in registers, whole
// cache lines on both sides.
#include "kernels/cpu/isa/lanes.h"
#include "kernels/cpu/isa/vectors.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// Side of the blocks that are transposed.
inline constexpr int kSide = kLanes;
using Row = Vector;
typedef std::uint32_t Bits __attribute__((vector_size(4 * kSide)));
typedef std::uint16_t HalfRow __attribute__((vector_size(2 * kSide)));

// A line of either layout holds so many fp32: blocks that share lines follow each other.
inline constexpr std::int64_t kLine = 16;

// body(token, feature) for every kSide x kSide block of whole blocks. A strip of tokens runs through all of
// their features: that many streams, which the hardware prefetches by itself.
template <typename F>
inline void for_each_block(std::int64_t tokens, std::int64_t features, F&& body) {
  for (std::int64_t strip = 0; strip < tokens; strip += kLine) {
    const std::int64_t strip_end = strip + kLine < tokens ? strip + kLine : tokens;
    for (std::int64_t line = 0; line < features; line += kLine) {
      const std::int64_t line_end = line + kLine < features ? line + kLine : features;
      for (std::int64_t token = strip; token < strip_end; token += kSide) {
        for (std::int64_t feature = line; feature < line_end; feature += kSide) body(token, feature);
      }
    }
  }
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
using Places = typename Count<kSide>::Type;

// Every four lanes become a[from] b[from] a[from + 1] b[from + 1], or a[from] a[from + 1] b[from] b[from +
// 1].
template <int from, int... i>
inline Row interleave(Row a, Row b, Pack<i...> /*places*/) {
  return __builtin_shufflevector(a, b, (i / 4 * 4 + from + i % 4 / 2 + i % 2 * kSide)...);
}
template <int from, int... i>
inline Row pair(Row a, Row b, Pack<i...> /*places*/) {
  return __builtin_shufflevector(a, b, (i / 4 * 4 + from + i % 2 + i % 4 / 2 * kSide)...);
}

// Every four lanes of in[0...3] are a 4 x 4 matrix.
inline void transpose_fours(const Row* in, Row* out) {
  const Places places{};
  const Row low01 = interleave<0>(in[0], in[1], places);
  const Row low23 = interleave<0>(in[2], in[3], places);
  const Row high01 = interleave<2>(in[0], in[1], places);
  const Row high23 = interleave<2>(in[2], in[3], places);
  out[0] = pair<0>(low01, low23, places);
  out[1] = pair<2>(low01, low23, places);
  out[2] = pair<0>(high01, high23, places);
  out[3] = pair<2>(high01, high23, places);
}

inline std::uint64_t load_64_bits(const void* from) {
  std::uint64_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}

// The same four floats of rows 0, 4, 8, ... side by side. In intrinsics where the compiler would load first
// and shuffle then: joined by the load, they cost the shuffle port nothing.
inline Row join_fours(const float* from, std::int64_t stride) {
#if defined(__AVX512F__)
  __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(from));
  x = _mm512_mask_broadcast_f32x4(x, 0x00F0, _mm_loadu_ps(from + 4 * stride));
  x = _mm512_mask_broadcast_f32x4(x, 0x0F00, _mm_loadu_ps(from + 8 * stride));
  return _mm512_mask_broadcast_f32x4(x, 0xF000, _mm_loadu_ps(from + 12 * stride));
#elif defined(__AVX__)
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)), _mm_loadu_ps(from + 4 * stride), 1);
#else
  (void)stride;
  return load<Row>(from);
#endif
}

// The same for any storage.
template <Storage storage, int... i>
inline Row load_fours(const typename Stored<storage>::Type* from, std::int64_t stride, Pack<i...> /*fours*/) {
  if constexpr (storage == Storage::f32) {
    return join_fours(from, stride);
  } else if constexpr (storage == Storage::bf16) {
    typedef std::uint64_t Fours __attribute__((vector_size(2 * kSide)));
    const std::int64_t four_rows = 4 * stride;
    const Fours fours = {load_64_bits(from + i * four_rows)...};
    return reinterpret_cast<Row>(__builtin_convertvector(reinterpret_cast<HalfRow>(fours), Bits) << 16);
  } else {
    float wide[kSide];
    for (std::int64_t lane = 0; lane < kSide; ++lane) {
      wide[lane] = Stored<storage>::widen(from[lane / 4 * 4 * stride + lane % 4]);
    }
    return load<Row>(wide);
  }
}

// put(i, column i) of the kSide x kSide block at `from`.
template <Storage storage, typename Put>
inline void transpose(const typename Stored<storage>::Type* from, std::int64_t stride, Put&& put) {
#pragma GCC unroll 1  // unrolled, addresses take more registers than there are
  for (std::int64_t column = 0; column < kSide; column += 4) {
    Row in[4];
    Row out[4];
#pragma GCC unroll 4
    for (std::int64_t row = 0; row < 4; ++row) {
      in[row] = load_fours<storage>(from + row * stride + column, stride, typename Count<kSide / 4>::Type());
    }
    transpose_fours(in, out);
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < 4; ++i) put(column + i, out[i]);
  }
}

template <Storage storage>
inline Row load_row(const typename Stored<storage>::Type* from) {
  if constexpr (storage == Storage::f32) {
    return load<Row>(from);
  } else if constexpr (storage == Storage::bf16) {
    HalfRow half;
    std::memcpy(&half, from, sizeof half);
    return reinterpret_cast<Row>(__builtin_convertvector(half, Bits) << 16);
  } else {
    float wide[kSide];
    for (int i = 0; i < kSide; ++i) wide[i] = Stored<storage>::widen(from[i]);
    return load<Row>(wide);
  }
}

template <Storage storage>
inline void store_row(typename Stored<storage>::Type* to, Row x) {
  if constexpr (storage == Storage::f32) {
    store(to, x);
  } else if constexpr (storage == Storage::bf16) {  // f32_to_bf16 of half.h
    const Bits bits = reinterpret_cast<Bits>(x);
    const Bits rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
    const Bits nan = (bits >> 16) | 0x40U;
    const auto is_nan = reinterpret_cast<Bits>((bits & 0x7FFFFFFFU) > 0x7F800000U);
    const auto half = __builtin_convertvector((nan & is_nan) | (rounded & ~is_nan), HalfRow);
    std::memcpy(to, &half, sizeof half);
  } else {
    float wide[kSide];
    store(wide, x);
    for (int i = 0; i < kSide; ++i) to[i] = Stored<storage>::narrow(wide[i]);
  }
}

template <Storage storage>
void pack(const PackRun& run) {
  using Type = typename Stored<storage>::Type;
  const auto* const x = static_cast<const Type*>(run.x);
  float* const packed = run.packed;
  const std::int64_t whole_tokens = run.tokens / kSide * kSide;
  const std::int64_t whole_features = run.features / kSide * kSide;
  // Copies: what is stored could be `run` for all that the compiler knows.
  const std::int64_t stride = run.stride;
  const std::int64_t width = run.width;
  for_each_block(
      whole_tokens,
      whole_features, [&](std::int64_t token, std::int64_t feature) __attribute__((always_inline)) {
        float* const to = packed + feature * width + token;
        transpose<storage>(
            x + token * stride + feature,
            stride, [=](std::int64_t i, Row row) __attribute__((always_inline)) {
              store_aligned(to + i * width, row);
            });
      });
  for (std::int64_t feature = 0; feature < run.features; ++feature) {
    float* const to = run.packed + feature * run.width;
    std::int64_t token = feature < whole_features ? whole_tokens : 0;
    for (; token < run.tokens; ++token) to[token] = Stored<storage>::widen(x[token * run.stride + feature]);
    for (; token < run.width; ++token) to[token] = 0;
  }
}

template <Storage storage>
void unpack(const UnpackRun& run) {
  using Type = typename Stored<storage>::Type;
  auto* const y = static_cast<Type*>(run.y);
  const float* const packed = run.packed;
  const float* const bias = run.bias;
  const std::int64_t whole_tokens = run.tokens / kSide * kSide;
  const std::int64_t whole_features = run.features / kSide * kSide;
  // Copies: what is stored could be `run` for all that the compiler knows.
  const std::int64_t stride = run.stride;
  const std::int64_t width = run.width;
  for_each_block(
      whole_tokens,
      whole_features, [&](std::int64_t token, std::int64_t feature) __attribute__((always_inline)) {
        const Row added = bias == nullptr ? Row{} : load<Row>(bias + feature);
        Type* const to = y + token * stride + feature;
        transpose<Storage::f32>(
            packed + feature * width + token,
            width, [=](std::int64_t i, Row row) __attribute__((always_inline)) {
              store_row<storage>(to + i * stride, row + added);
            });
      });
  for (std::int64_t feature = 0; feature < run.features; ++feature) {
    const float added = bias == nullptr ? 0 : bias[feature];
    for (std::int64_t token = feature < whole_features ? whole_tokens : 0; token < run.tokens; ++token) {
      y[token * run.stride + feature] = Stored<storage>::narrow(packed[feature * width + token] + added);
    }
  }
}

template <Storage storage>
void widen(const void* from, float* to, std::int64_t size) {
  const auto* const elements = static_cast<const typename Stored<storage>::Type*>(from);
  std::int64_t i = 0;
  for (; i + kSide <= size; i += kSide) store(to + i, load_row<storage>(elements + i));
  for (; i < size; ++i) to[i] = Stored<storage>::widen(elements[i]);
}

template <Storage storage>
void narrow(const float* from, void* to, std::int64_t size) {
  auto* const elements = static_cast<typename Stored<storage>::Type*>(to);
  std::int64_t i = 0;
  for (; i + kSide <= size; i += kSide) store_row<storage>(elements + i, load<Row>(from + i));
  for (; i < size; ++i) elements[i] = Stored<storage>::narrow(from[i]);
}

}  // namespace

extern const TileLayout kTileLayout;
const TileLayout kTileLayout = {
    {pack<Storage::f32>, pack<Storage::bf16>, pack<Storage::f16>},
    {unpack<Storage::f32>, unpack<Storage::bf16>, unpack<Storage::f16>},
    {widen<Storage::f32>, widen<Storage::bf16>, widen<Storage::f16>},
    {narrow<Storage::f32>, narrow<Storage::bf16>, narrow<Storage::f16>},
};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
