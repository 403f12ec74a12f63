// SPDX-License-Identifier: BSD-3-Clause
// gather, inner loops: dense columns -> packed order, one row's run of mask words.
#include "kernels/cpu/isa/lanes.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/half.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// How one element x of dense enters `out`, whose old element is y.
template <GatherMode>
struct Elements;
template <typename T>
struct Copy {
  using Dense = T;
  using Out = T;
  static Out merge(Dense x, Out) { return x; }
};
template <typename T>
struct Add {
  using Dense = T;
  using Out = T;
  static Out merge(Dense x, Out y) { return y + x; }
};
template <>
struct Elements<GatherMode::copy16> : Copy<std::uint16_t> {};
template <>
struct Elements<GatherMode::copy32> : Copy<std::uint32_t> {};
template <>
struct Elements<GatherMode::copy64> : Copy<std::uint64_t> {};
template <>
struct Elements<GatherMode::add_f32> : Add<float> {};
template <>
struct Elements<GatherMode::add_f64> : Add<double> {};

template <>
struct Elements<GatherMode::f32_bf16> {
  using Dense = float;
  using Out = std::uint16_t;
  static Out merge(Dense x, Out) { return f32_to_bf16(x); }
};
template <>
struct Elements<GatherMode::f32_f16> {
  using Dense = float;
  using Out = std::uint16_t;
  static Out merge(Dense x, Out) { return f32_to_f16(x); }
};
template <>
struct Elements<GatherMode::add_bf16> {
  using Dense = std::uint16_t;
  using Out = std::uint16_t;
  static Out merge(Dense x, Out y) { return f32_to_bf16(bf16_to_f32(y) + bf16_to_f32(x)); }
};
template <>
struct Elements<GatherMode::add_f16> {
  using Dense = std::uint16_t;
  using Out = std::uint16_t;
  static Out merge(Dense x, Out y) { return f32_to_f16(f16_to_f32(y) + f16_to_f32(x)); }
};
template <>
struct Elements<GatherMode::add_f32_bf16> {
  using Dense = float;
  using Out = std::uint16_t;
  static Out merge(Dense x, Out y) { return f32_to_bf16(bf16_to_f32(y) + x); }
};
template <>
struct Elements<GatherMode::add_f32_f16> {
  using Dense = float;
  using Out = std::uint16_t;
  static Out merge(Dense x, Out y) { return f32_to_f16(f16_to_f32(y) + x); }
};

#ifdef __AVX2__

template <GatherMode mode>
constexpr bool kHasShuffle =
    mode == GatherMode::copy16 || mode == GatherMode::copy32 || mode == GatherMode::add_f32 ||
    mode == GatherMode::f32_bf16 || mode == GatherMode::add_f32_bf16;

inline __m256i add_lanes(__m256i x, __m256i y) {
  return _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(y), _mm256_castsi256_ps(x)));
}

// Gathers from eight columns and writes eight elements of `out`: those beyond the byte's set bits belong to
// the steps that follow, which write them again. Accumulating, they keep what they held.
template <GatherMode mode>
inline void gather_8(const void* dense, std::uint32_t byte, void* out) {
  const __m256i index = lane_indices(kLookup.compress[byte]);
  const __m256i unused = _mm256_srai_epi32(index, 31);
  const auto lanes = [&] { return _mm256_permutevar8x32_epi32(load_256(dense), index); };
  if constexpr (mode == GatherMode::copy16) {
    store_128(out, _mm_shuffle_epi8(load_128(dense), load_128(kLookup.compress16[byte])));
  } else if constexpr (mode == GatherMode::copy32) {
    store_256(out, lanes());
  } else if constexpr (mode == GatherMode::f32_bf16) {
    store_128(out, narrow_bf16(lanes()));
  } else if constexpr (mode == GatherMode::add_f32) {
    const __m256i y = load_256(out);
    store_256(out, _mm256_blendv_epi8(add_lanes(lanes(), y), y, unused));
  } else {
    static_assert(mode == GatherMode::add_f32_bf16);
    const __m128i y = load_128(out);
    const __m128i sum = narrow_bf16(add_lanes(lanes(), widen_bf16(y)));
    const __m128i keep = _mm_packs_epi32(_mm256_castsi256_si128(unused), _mm256_extracti128_si256(unused, 1));
    store_128(out, _mm_blendv_epi8(sum, y, keep));
  }
}

template <GatherMode mode, typename Dense, typename Out>
inline void gather_word(std::uint32_t word, const Dense* dense, Out* out) {
  gather_8<mode>(dense, word & 0xFFU, out);
  gather_8<mode>(dense + 8, word >> 8 & 0xFFU, out + count_word(word & 0xFFU));
  gather_8<mode>(dense + 16, word >> 16 & 0xFFU, out + count_word(word & 0xFFFFU));
  gather_8<mode>(dense + 24, word >> 24, out + count_word(word & 0xFFFFFFU));
}

#endif

template <GatherMode mode>
void gather_run(const GatherRun& run) {
  using Out = typename Elements<mode>::Out;
  const auto* dense = static_cast<const typename Elements<mode>::Dense*>(run.dense);
  auto* out = static_cast<Out*>(run.out);
  const std::uint32_t* word = run.words;
  std::int64_t index = run.index;
  std::int64_t col = 0;
#ifdef __AVX2__
  if constexpr (kHasShuffle<mode>) {
    // A word fills at most 32 elements, and its last step writes up to 8 beyond the ones it fills.
    for (; col + kWordBits <= run.cols && index + kWordBits + 8 <= run.end; col += kWordBits) {
      gather_word<mode>(*word, dense + col, out + index);
      index += count_word(*word++);
    }
  }
#endif
  for (; col < run.cols; col += kWordBits) {
    for (std::uint32_t bits = *word++; bits != 0; bits &= bits - 1) {
      out[index] = Elements<mode>::merge(dense[col + lowest_bit(bits)], out[index]);
      ++index;
    }
  }
}

}  // namespace

extern const GatherKernels kGather;
const GatherKernels kGather = {{
    gather_run<GatherMode::copy16>,
    gather_run<GatherMode::copy32>,
    gather_run<GatherMode::copy64>,
    gather_run<GatherMode::f32_bf16>,
    gather_run<GatherMode::f32_f16>,
    gather_run<GatherMode::add_f32>,
    gather_run<GatherMode::add_f64>,
    gather_run<GatherMode::add_bf16>,
    gather_run<GatherMode::add_f16>,
    gather_run<GatherMode::add_f32_bf16>,
    gather_run<GatherMode::add_f32_f16>,
}};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
