// SPDX-License-Identifier: BSD-3-Clause
// tile_spmm, activations in and out of the packed layout: transposes of small blocks in registers, whole
// cache lines on both sides.
#include "kernels/cpu/isa/vectors.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// Blocks that are transposed have kSide rows and kAcross columns, which become kAcross rows of whole vectors.
inline constexpr int kSide = kLanes;
inline constexpr int kAcross = kSide < 8 ? kSide : 8;
using Row = Vector;
typedef std::uint32_t Bits __attribute__((vector_size(4 * kSide)));
typedef std::uint16_t HalfRow __attribute__((vector_size(2 * kSide)));
template <Storage storage>
using Element = typename Stored<storage>::Type;
template <typename T, int count>
struct Some {
  typedef T Type __attribute__((vector_size(count * sizeof(T))));
};
template <Storage storage, int count = kSide>
using Elements = typename Some<Element<storage>, count>::Type;

// body(token, feature) for every block of so many tokens and features. The kLine tokens that share lines of
// the packed layout go through all features before the next ones do: so many streams are prefetched by the
// hardware. Where they are several blocks, each goes through kRun features and waits for the others.
inline constexpr std::int64_t kLine = 16;
inline constexpr std::int64_t kRun = 64;
template <int block_tokens, int block_features, typename F>
[[gnu::always_inline]] inline void for_each_block(std::int64_t tokens, std::int64_t features, F&& body) {
  const std::int64_t whole_tokens = tokens / block_tokens * block_tokens;
  const std::int64_t whole_features = features / block_features * block_features;
  for (std::int64_t strip = 0; strip < whole_tokens; strip += kLine) {
    const std::int64_t strip_end = strip + kLine < whole_tokens ? strip + kLine : whole_tokens;
    for (std::int64_t run = 0; run < whole_features; run += kRun) {
      const std::int64_t run_end = run + kRun < whole_features ? run + kRun : whole_features;
      for (std::int64_t token = strip; token < strip_end; token += block_tokens) {
        for (std::int64_t feature = run; feature < run_end; feature += block_features) body(token, feature);
      }
    }
  }
}

// Every four lanes of in[0...3] are a 4 x 4 matrix.
inline void transpose_fours(const Row* in, Row* out) {
  const LanePlaces places{};
  const Row low01 = interleave<0>(in[0], in[1], places);
  const Row low23 = interleave<0>(in[2], in[3], places);
  const Row high01 = interleave<2>(in[0], in[1], places);
  const Row high23 = interleave<2>(in[2], in[3], places);
  out[0] = pair<0>(low01, low23, places);
  out[1] = pair<2>(low01, low23, places);
  out[2] = pair<0>(high01, high23, places);
  out[3] = pair<2>(high01, high23, places);
}

template <Storage storage>
inline Row widened(Elements<storage> x) {
  if constexpr (storage == Storage::f32) {
    return x;
  } else if constexpr (storage == Storage::bf16) {
    return reinterpret_cast<Row>(__builtin_convertvector(x, Bits) << 16);
  } else {
    float wide[kSide];
    for (int i = 0; i < kSide; ++i) wide[i] = Stored<storage>::widen(x[i]);
    return load<Row>(wide);
  }
}
template <Storage storage>
inline Row load_row(const Element<storage>* from) {
  Elements<storage> x;
  std::memcpy(&x, from, sizeof x);
  return widened<storage>(x);
}

template <Storage storage>
inline void store_row(Element<storage>* to, Row x) {
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

// The even or the odd fours of a, then those of b.
template <int odd, int... i>
inline Row every_other_four(Row a, Row b, Pack<i...> /*places*/) {
  constexpr int half = kSide / 2;
  return __builtin_shufflevector(a, b, (i / half * kSide + (i % half / 4 * 2 + odd) * 4 + i % 4)...);
}

// kAcross elements of a row; where a vector has room for more, those of the row four below follow.
template <Storage storage>
inline Row load_rows(const Element<storage>* from, std::int64_t stride) {
  if constexpr (sizeof(Elements<storage>) == sizeof(Elements<storage, kAcross>)) {
    return load_row<storage>(from);
  } else {
    Elements<storage, kAcross> low;
    Elements<storage, kAcross> high;
    std::memcpy(&low, from, sizeof low);
    std::memcpy(&high, from + 4 * stride, sizeof high);
    return widened<storage>(
        __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  }
}

// put(i, column i) of the block at `from`.
template <Storage storage, typename Put>
[[gnu::always_inline]] inline void transpose(const Element<storage>* from, std::int64_t stride, Put&& put) {
  const LanePlaces places{};
  Row in[4];
  Row low[4];
  Row high[4];
#pragma GCC unroll 4
  for (std::int64_t i = 0; i < 4; ++i) in[i] = load_rows<storage>(from + i * stride, stride);
  transpose_fours(in, low);
  if constexpr (kSide == 4) {
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < 4; ++i) put(i, low[i]);
  } else {
    from += kSide / 2 * stride;
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < 4; ++i) in[i] = load_rows<storage>(from + i * stride, stride);
    transpose_fours(in, high);
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < 4; ++i) {
      put(i, every_other_four<0>(low[i], high[i], places));
      put(4 + i, every_other_four<1>(low[i], high[i], places));
    }
  }
}

template <Storage storage>
void pack(const PackRun& run) {
  const auto* const x = static_cast<const Element<storage>*>(run.x);
  float* const packed = run.packed;
  // Copies: what is stored could be `run` for all that the compiler knows.
  const std::int64_t stride = run.stride;
  const std::int64_t width = run.width;
  for_each_block<kSide, kAcross>(
      run.tokens, run.features, [&](std::int64_t token, std::int64_t feature) __attribute__((always_inline)) {
        float* const to = packed + feature * width + token;
        transpose<storage>(
            x + token * stride + feature,
            stride, [=](std::int64_t i, Row row) __attribute__((always_inline)) {
              store_aligned(to + i * width, row);
            });
      });
  const std::int64_t whole_tokens = run.tokens / kSide * kSide;
  const std::int64_t whole_features = run.features / kAcross * kAcross;
  for (std::int64_t feature = whole_tokens < width ? 0 : whole_features; feature < run.features; ++feature) {
    float* const to = run.packed + feature * run.width;
    std::int64_t token = feature < whole_features ? whole_tokens : 0;
    for (; token < run.tokens; ++token) to[token] = Stored<storage>::widen(x[token * run.stride + feature]);
    for (; token < run.width; ++token) to[token] = 0;
  }
}

// kAcross tokens of y at a time: they lie in as many pages, and a core may know no more than sixteen to store
// to. Their lines are asked for two ahead: 13 -> 17 GB/s (768 features), 9 -> 10.3 (2048).
template <Storage storage>
void unpack(const UnpackRun& run) {
  auto* const y = static_cast<Element<storage>*>(run.y);
  const float* const packed = run.packed;
  const float* const bias = run.bias;
  // Copies: what is stored could be `run` for all that the compiler knows.
  const std::int64_t stride = run.stride;
  const std::int64_t width = run.width;
  for_each_block<kAcross, kSide>(
      run.tokens, run.features, [&](std::int64_t token, std::int64_t feature) __attribute__((always_inline)) {
        const Row added = bias == nullptr ? Row{} : load<Row>(bias + feature);
        auto* const to = y + token * stride + feature;
        if (feature % kLine == 0) {
#pragma GCC unroll 8
          for (std::int64_t i = 0; i < kAcross; ++i) __builtin_prefetch(to + i * stride + 2 * kLine, 1);
        }
        transpose<Storage::f32>(
            packed + feature * width + token,
            width, [=](std::int64_t i, Row row) __attribute__((always_inline)) {
              store_row<storage>(to + i * stride, row + added);
            });
      });
  const std::int64_t whole_tokens = run.tokens / kAcross * kAcross;
  const std::int64_t whole_features = run.features / kSide * kSide;
  for (std::int64_t feature = whole_tokens < run.tokens ? 0 : whole_features; feature < run.features;
       ++feature) {
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
