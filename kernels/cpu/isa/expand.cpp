// SPDX-License-Identifier: BSD-3-Clause
// expand, inner loops: one row's run of mask words -> dense columns.
#include "kernels/cpu/isa/lanes.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/half.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// Storage of packed and dense elements, and the conversion between them.
template <Conversion>
struct Elements;
template <>
struct Elements<Conversion::copy16> {
  using Packed = std::uint16_t;
  using Dense = std::uint16_t;
  static Dense convert(Packed x) { return x; }
};
template <>
struct Elements<Conversion::copy32> {
  using Packed = std::uint32_t;
  using Dense = std::uint32_t;
  static Dense convert(Packed x) { return x; }
};
template <>
struct Elements<Conversion::copy64> {
  using Packed = std::uint64_t;
  using Dense = std::uint64_t;
  static Dense convert(Packed x) { return x; }
};
template <>
struct Elements<Conversion::bf16_f32> {
  using Packed = std::uint16_t;
  using Dense = float;
  static Dense convert(Packed x) { return bf16_to_f32(x); }
};
template <>
struct Elements<Conversion::f16_f32> {
  using Packed = std::uint16_t;
  using Dense = float;
  static Dense convert(Packed x) { return f16_to_f32(x); }
};

// The first `cols` columns of one word, any dtype: zeros, then the set bits one by one.
template <Conversion kind, typename Packed, typename Dense>
inline void expand_bits(std::uint32_t word, std::int64_t cols, const Packed* values, Dense* dense) {
  for (std::int64_t col = 0; col < cols; ++col) dense[col] = 0;
  for (; word != 0; word &= word - 1) dense[lowest_bit(word)] = Elements<kind>::convert(*values++);
}

#ifdef __AVX2__

// Eight columns at once; reads eight values, however many of them are needed.
template <Conversion kind>
inline void expand_8(const void* values, std::uint32_t byte, void* dense) {
  if constexpr (kind == Conversion::copy16) {
    store_128(dense, _mm_shuffle_epi8(load_128(values), load_128(kLookup.expand16[byte])));
  } else if constexpr (kind == Conversion::copy32) {
    store_256(dense, expand_lanes(load_256(values), _mm256_setzero_si256(), byte));
  } else {
    static_assert(kind == Conversion::bf16_f32);
    store_256(dense, expand_lanes(widen_bf16(load_128(values)), _mm256_setzero_si256(), byte));
  }
}

template <Conversion kind>
constexpr bool kHasShuffle =
    kind == Conversion::copy16 || kind == Conversion::copy32 || kind == Conversion::bf16_f32;

// Four byte steps whose addresses do not wait for each other.
template <Conversion kind, typename Packed, typename Dense>
inline void expand_word(std::uint32_t word, const Packed* values, Dense* dense) {
  expand_8<kind>(values, word & 0xFFU, dense);
  expand_8<kind>(values + count_word(word & 0xFFU), word >> 8 & 0xFFU, dense + 8);
  expand_8<kind>(values + count_word(word & 0xFFFFU), word >> 16 & 0xFFU, dense + 16);
  expand_8<kind>(values + count_word(word & 0xFFFFFFU), word >> 24, dense + 24);
}

#endif

template <Conversion kind>
void expand_run(const ExpandRun& run) {
  using Packed = typename Elements<kind>::Packed;
  const auto* values = static_cast<const Packed*>(run.values);
  auto* dense = static_cast<typename Elements<kind>::Dense*>(run.dense);
  const std::uint32_t* word = run.words;
  std::int64_t index = run.index;
  std::int64_t col = 0;
#ifdef __AVX2__
  if constexpr (kHasShuffle<kind>) {
    // A word uses at most 32 values, and the last step reads up to 7 beyond the ones it uses.
    for (; col + kWordBits <= run.cols && index + kWordBits + 8 <= run.nnz; col += kWordBits) {
      expand_word<kind>(*word, values + index, dense + col);
      index += count_word(*word++);
    }
  }
#endif
  for (; col < run.cols; col += kWordBits) {
    const std::int64_t cols = run.cols - col < kWordBits ? run.cols - col : kWordBits;
    expand_bits<kind>(*word, cols, values + index, dense + col);
    index += count_word(*word++);
  }
}

}  // namespace

extern const ExpandKernels kExpand;
const ExpandKernels kExpand = {{
    expand_run<Conversion::copy16>,
    expand_run<Conversion::copy32>,
    expand_run<Conversion::copy64>,
    expand_run<Conversion::bf16_f32>,
    expand_run<Conversion::f16_f32>,
}};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
