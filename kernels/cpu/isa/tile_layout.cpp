// SPDX-License-Identifier: BSD-3-Clause
// tile_spmm, activations in and out of the packed layout: transposes of small blocks in registers, whole
// cache lines on the token-major side.
#include "kernels/cpu/isa/vectors.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// Side of the blocks that are transposed, and the vectors of one row of a block.
inline constexpr int kSide = kLanes < 8 ? 4 : 8;
using Row = VectorOf<kSide>;
typedef std::uint32_t Bits __attribute__((vector_size(4 * kSide)));
typedef std::uint16_t HalfRow __attribute__((vector_size(2 * kSide)));

// A strip of tokens fills whole lines of the packed layout; a run of features is long enough for the
// hardware to see a stream in every token's row.
inline constexpr int kStrip = 16;
inline constexpr int kRun = 64;

// body(token, feature) for every kSide x kSide block of whole blocks.
template <typename F>
inline void for_each_block(std::int64_t tokens, std::int64_t features, F&& body) {
  for (std::int64_t run = 0; run < features; run += kRun) {
    const std::int64_t run_end = run + kRun < features ? run + kRun : features;
    for (std::int64_t strip = 0; strip < tokens; strip += kStrip) {
      const std::int64_t strip_end = strip + kStrip < tokens ? strip + kStrip : tokens;
      for (std::int64_t feature = run; feature < run_end; feature += kSide) {
        for (std::int64_t token = strip; token < strip_end; token += kSide) body(token, feature);
      }
    }
  }
}

template <typename V>
inline void transpose_pairs(const V* in, V* out) {
  if constexpr (kSide == 4) {
    const V ab = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5);
    const V cd = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5);
    const V ef = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7);
    const V gh = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
    out[0] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    out[1] = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    out[2] = __builtin_shufflevector(ef, gh, 0, 1, 4, 5);
    out[3] = __builtin_shufflevector(ef, gh, 2, 3, 6, 7);
  } else {
    V pair[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      pair[i] = __builtin_shufflevector(in[i], in[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
      pair[i + 1] = __builtin_shufflevector(in[i], in[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    V quad[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        quad[i + 2 * j] = __builtin_shufflevector(pair[i + j], pair[i + 2 + j], 0, 1, 8, 9, 4, 5, 12, 13);
        quad[i + 2 * j + 1] =
            __builtin_shufflevector(pair[i + j], pair[i + 2 + j], 2, 3, 10, 11, 6, 7, 14, 15);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      out[i] = __builtin_shufflevector(quad[i], quad[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
      out[i + 4] = __builtin_shufflevector(quad[i], quad[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
  }
}

// kSide neighbouring elements as fp32, and back.
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
  const std::int64_t whole_tokens = run.tokens / kSide * kSide;
  const std::int64_t whole_features = run.features / kSide * kSide;
  for_each_block(
      whole_tokens,
      whole_features, [&](std::int64_t token, std::int64_t feature) __attribute__((always_inline)) {
        Row in[kSide];
        Row out[kSide];
        const Type* const from = x + token * run.stride + feature;
        float* const to = run.packed + feature * run.width + token;
#pragma GCC unroll 8
        for (int i = 0; i < kSide; ++i) {
          __builtin_prefetch(from + i * run.stride + kRun);
          in[i] = load_row<storage>(from + i * run.stride);
        }
        transpose_pairs(in, out);
#pragma GCC unroll 8
        for (int i = 0; i < kSide; ++i) store_aligned(to + i * run.width, out[i]);
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
  const std::int64_t whole_tokens = run.tokens / kSide * kSide;
  const std::int64_t whole_features = run.features / kSide * kSide;
  for_each_block(
      whole_tokens,
      whole_features, [&](std::int64_t token, std::int64_t feature) __attribute__((always_inline)) {
        Row in[kSide];
        Row out[kSide];
        const float* const from = run.packed + feature * run.width + token;
        Type* const to = y + token * run.stride + feature;
#pragma GCC unroll 8
        for (int i = 0; i < kSide; ++i) in[i] = load_aligned<Row>(from + i * run.width);
        transpose_pairs(in, out);
        const Row bias = run.bias == nullptr ? Row{} : load<Row>(run.bias + feature);
#pragma GCC unroll 8
        for (int i = 0; i < kSide; ++i) store_row<storage>(to + i * run.stride, out[i] + bias);
      });
  for (std::int64_t feature = 0; feature < run.features; ++feature) {
    const float bias = run.bias == nullptr ? 0 : run.bias[feature];
    for (std::int64_t token = feature < whole_features ? whole_tokens : 0; token < run.tokens; ++token) {
      y[token * run.stride + feature] =
          Stored<storage>::narrow(run.packed[feature * run.width + token] + bias);
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
