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

// The gathered elements of up to a segment, before they are merged into `out`: added in place, eight at a
// time, they would wait for one another's overlapping stores. Steps of eight write up to 8 beyond the last.
constexpr std::int64_t kBlockWords = 32;
template <typename T>
struct Block {
  alignas(64) T element[kBlockWords * kWordBits + 8];
};

template <typename T>
inline void compress_bits(std::uint32_t word, const T* dense, T* to) {
  for (std::uint32_t bits = word; bits != 0; bits &= bits - 1) *to++ = dense[lowest_bit(bits)];
}

#ifdef __AVX2__

// Eight columns of two or four bytes.
template <typename T>
inline void compress_8(std::uint32_t byte, const T* dense, T* to) {
  if constexpr (sizeof(T) == 2) {
    store_128(to, _mm_shuffle_epi8(load_128(dense), load_128(kLookup.compress16[byte])));
  } else {
    store_256(to, compress_lanes(load_256(dense), byte));
  }
}

#endif

// One word's elements, all 32 columns of which exist, to the front of `to`.
template <typename T>
inline void compress_word(std::uint32_t word, const T* dense, T* to) {
#ifdef __AVX2__
  if constexpr (sizeof(T) < 8) {
    compress_8(word & 0xFFU, dense, to);
    compress_8(word >> 8 & 0xFFU, dense + 8, to + count_word(word & 0xFFU));
    compress_8(word >> 16 & 0xFFU, dense + 16, to + count_word(word & 0xFFFFU));
    compress_8(word >> 24, dense + 24, to + count_word(word & 0xFFFFFFU));
    return;
  }
#endif
  compress_bits(word, dense, to);
}

template <GatherMode mode>
void gather_run(const GatherRun& run) {
  using Dense = typename Elements<mode>::Dense;
  using Out = typename Elements<mode>::Out;
  const auto* dense = static_cast<const Dense*>(run.dense);
  auto* __restrict out = static_cast<Out*>(run.out) + run.index;
  const std::uint32_t* word = run.words;
  Block<Dense> block;
  for (std::int64_t begin = 0; begin < run.cols; begin += kBlockWords * kWordBits) {
    const std::int64_t end = begin + kBlockWords * kWordBits;
    std::int64_t count = 0;
    for (std::int64_t col = begin; col < end && col < run.cols; col += kWordBits, ++word) {
      if (col + kWordBits <= run.cols) {
        compress_word(*word, dense + col, block.element + count);
      } else {
        compress_bits(*word, dense + col, block.element + count);
      }
      count += count_word(*word);
    }
    // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): the loop above wrote the first `count`.
    for (std::int64_t i = 0; i < count; ++i) out[i] = Elements<mode>::merge(block.element[i], out[i]);
    out += count;
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
