// SPDX-License-Identifier: BSD-3-Clause
// select_keep, inner loops: order-preserving keys, their histogram, and the mask of what is kept.
#include "kernels/cpu/isa/lanes.h"
#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// A score as the bits of its dtype: a sign and a magnitude that grows with |score| up to kInfinity; beyond it
// is NaN.
template <typename T, T infinity>
struct Score {
  using Bits = T;
  static constexpr T kInfinity = infinity;
  static constexpr int kWidth = 8 * static_cast<int>(sizeof(T));
  static constexpr T kSign = static_cast<T>(T{1} << (kWidth - 1));
};
using F32 = Score<std::uint32_t, 0x7F800000U>;
using F64 = Score<std::uint64_t, 0x7FF0000000000000ULL>;
using Bf16 = Score<std::uint16_t, 0x7F80U>;
using F16 = Score<std::uint16_t, 0x7C00U>;

// Smallest |score| first: NaN is 0, a number its magnitude + 1.
template <typename S>
struct Magnitude {
  using Bits = typename S::Bits;
  static constexpr int kShift = S::kWidth - 13;  // the leading bit of a magnitude + 1 is 0
  static Bits key(Bits bits) {
    const auto magnitude = static_cast<Bits>(bits & static_cast<Bits>(~S::kSign));
    return magnitude > S::kInfinity ? Bits{0} : static_cast<Bits>(magnitude + 1U);
  }
};

// Smallest score first: the sign bit flipped for positive numbers, all bits for negative ones, and -0 made
// equal to 0; minus infinity's key is above 0, which is left for NaN.
template <typename S>
struct Signed {
  using Bits = typename S::Bits;
  static constexpr int kShift = S::kWidth - 12;
  static Bits key(Bits bits) {
    const auto magnitude = static_cast<Bits>(bits & static_cast<Bits>(~S::kSign));
    if (magnitude > S::kInfinity) return 0;
    const bool negative = (bits & S::kSign) != 0 && magnitude != 0;
    return negative ? static_cast<Bits>(~bits) : static_cast<Bits>(magnitude | S::kSign);
  }
};

template <typename Order>
std::int64_t histogram(const ScoreRun& run, std::uint32_t* histogram) {
  using Bits = typename Order::Bits;
  const auto* score = static_cast<const Bits*>(run.score);
  // Two tables: neighbours in one bin would wait for each other's store.
  std::uint32_t other[kHistogramBins] = {};
  std::int64_t nan = 0;
  std::int64_t i = run.begin;
  for (; i + 2 <= run.end; i += 2) {
    const Bits first = Order::key(score[i]);
    const Bits second = Order::key(score[i + 1]);
    ++histogram[first >> Order::kShift];
    ++other[second >> Order::kShift];
    nan += static_cast<int>(first == 0) + static_cast<int>(second == 0);
  }
  if (i < run.end) {
    const Bits last = Order::key(score[i]);
    ++histogram[last >> Order::kShift];
    nan += static_cast<int>(last == 0);
  }
  for (int bin = 0; bin < kHistogramBins; ++bin) histogram[bin] += other[bin];
  return nan;
}

#ifdef __AVX2__

// Keys of eight fp32 magnitudes. They fit 31 bits, so signed comparisons serve.
inline __m256i magnitude_keys(const float* score) {
  const __m256i magnitude = _mm256_and_si256(load_256(score), _mm256_set1_epi32(0x7FFFFFFF));
  const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F800000));
  return _mm256_andnot_si256(nan, _mm256_add_epi32(magnitude, _mm256_set1_epi32(1)));
}
inline std::uint32_t lane_bits(__m256i x) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(x)));
}

// refine, eight scores at a time, of which few begin like the one looked for; or many, and then most are
// equal, as the zeros of newborn weights are. Those equal to the last one counted are counted together.
// Returns the first score that is left.
inline std::int64_t refine_eights(const ScoreRun& run, const Digit& digit, std::uint32_t* histogram) {
  const auto* score = static_cast<const float*>(run.score);
  const __m256i prefix = _mm256_set1_epi32(static_cast<int>(digit.prefix));
  const __m128i upper = _mm_cvtsi32_si128(digit.upper);
  const __m128i lower = _mm_cvtsi32_si128(digit.lower);
  const std::uint32_t bins = (1U << (digit.upper - digit.lower)) - 1;
  // A number that a key can begin with.
  auto last = static_cast<std::uint32_t>(digit.prefix << (digit.upper - digit.lower));
  std::int64_t as_last = 0;
  std::int64_t i = run.begin;
  for (; i + 8 <= run.end; i += 8) {
    const __m256i key = magnitude_keys(score + i);
    std::uint32_t found = lane_bits(_mm256_cmpeq_epi32(_mm256_srl_epi32(key, upper), prefix));
    if (found == 0) continue;
    const __m256i begins = _mm256_srl_epi32(key, lower);
    const std::uint32_t same =
        lane_bits(_mm256_cmpeq_epi32(begins, _mm256_set1_epi32(static_cast<int>(last))));
    as_last += count_word(same);
    found ^= same;
    if (found == 0) continue;
    histogram[last & bins] += static_cast<std::uint32_t>(as_last);
    as_last = 0;
    std::uint32_t lanes[8];
    store_256(lanes, begins);
    for (; found != 0; found &= found - 1) {
      last = lanes[lowest_bit(found)];
      ++histogram[last & bins];
    }
  }
  histogram[last & bins] += static_cast<std::uint32_t>(as_last);
  return i;
}

#endif

template <typename Order>
void refine(const ScoreRun& run, const Digit& digit, std::uint32_t* histogram) {
  using Bits = typename Order::Bits;
  const auto* score = static_cast<const Bits*>(run.score);
  const auto bins = static_cast<Bits>((1U << (digit.upper - digit.lower)) - 1);
  std::int64_t i = run.begin;
#ifdef __AVX2__
  if constexpr (__is_same(Order, Magnitude<F32>)) i = refine_eights(run, digit, histogram);
#endif
  for (; i < run.end; ++i) {
    const Bits key = Order::key(score[i]);
    if (static_cast<Bits>(key >> digit.upper) != digit.prefix) continue;
    ++histogram[static_cast<Bits>(key >> digit.lower) & bins];
  }
}

// Drops, of one word's weights, those before the threshold.
template <typename Order>
inline std::uint32_t keep_bits(std::uint32_t word, const typename Order::Bits* score,
                               typename Order::Bits threshold, std::int64_t& ties) {
  std::uint32_t keep = word;
  for (std::uint32_t bits = word; bits != 0; bits &= bits - 1) {
    const auto key = Order::key(*score++);
    const bool tie = key == threshold && ties > 0;
    ties -= static_cast<int>(tie);
    if (key < threshold || tie) keep &= ~(bits & (~bits + 1));
  }
  return keep;
}

#ifdef __AVX2__

// Of one word's weights, fp32 magnitudes: which have a key below the threshold, and which one equal to it.
struct Compared {
  std::uint32_t below, equal;
};

#ifdef __AVX512F__

// The comparisons of a word's scores, as they are packed, are dealt out to its set bits.
inline Compared compare_word(const float* score, std::uint32_t word, std::int32_t threshold) {
  const __m512i wanted = _mm512_set1_epi32(threshold);
  const auto keys = [](const float* from) {
    const __m512i magnitude = _mm512_and_si512(_mm512_loadu_si512(from), _mm512_set1_epi32(0x7FFFFFFF));
    const __mmask16 number = _mm512_cmple_epi32_mask(magnitude, _mm512_set1_epi32(0x7F800000));
    return _mm512_maskz_add_epi32(number, magnitude, _mm512_set1_epi32(1));
  };
  const __m512i low = keys(score);
  const __m512i high = keys(score + 16);
  const auto dealt = [=](__mmask16 first, __mmask16 second) {
    return _pdep_u32(static_cast<std::uint32_t>(first) | static_cast<std::uint32_t>(second) << 16, word);
  };
  return {dealt(_mm512_cmplt_epi32_mask(low, wanted), _mm512_cmplt_epi32_mask(high, wanted)),
          dealt(_mm512_cmpeq_epi32_mask(low, wanted), _mm512_cmpeq_epi32_mask(high, wanted))};
}

#else

// Eight columns at once; not by pdep, which is microcode on Zen 2.
inline Compared compare_8(const float* score, std::uint32_t byte, std::int32_t threshold) {
  const __m256i key = expand_lanes(magnitude_keys(score), _mm256_set1_epi32(-1), byte);
  const __m256i wanted = _mm256_set1_epi32(threshold);
  return {lane_bits(_mm256_cmpgt_epi32(wanted, key)) & byte, lane_bits(_mm256_cmpeq_epi32(wanted, key))};
}

inline Compared compare_word(const float* score, std::uint32_t word, std::int32_t threshold) {
  const Compared a = compare_8(score, word & 0xFFU, threshold);
  const Compared b = compare_8(score + count_word(word & 0xFFU), word >> 8 & 0xFFU, threshold);
  const Compared c = compare_8(score + count_word(word & 0xFFFFU), word >> 16 & 0xFFU, threshold);
  const Compared d = compare_8(score + count_word(word & 0xFFFFFFU), word >> 24, threshold);
  return {a.below | b.below << 8 | c.below << 16 | d.below << 24,
          a.equal | b.equal << 8 | c.equal << 16 | d.equal << 24};
}

#endif

// The words of `run` whose scores may be read beyond their own; returns how many there were.
std::int64_t keep_words(const KeepRun& run, std::int64_t& index, std::int64_t& ties) {
  const auto* score = static_cast<const float*>(run.score);
  const auto threshold = static_cast<std::int32_t>(run.threshold);
  std::int64_t w = 0;
  for (; w < run.count && index + kWordBits + 8 <= run.nnz; ++w) {
    const std::uint32_t word = run.words[w];
    Compared compared = compare_word(score + index, word, threshold);
    const std::int64_t equal = count_word(compared.equal);
    if (equal <= ties) {
      compared.below |= compared.equal;
      ties -= equal;
    } else {
      for (; ties > 0; compared.equal &= compared.equal - 1, --ties) {
        compared.below |= compared.equal & (~compared.equal + 1);
      }
    }
    run.keep[w] = word & ~compared.below;
    index += count_word(word);
  }
  return w;
}

#endif

template <typename Order>
void keep(const KeepRun& run) {
  using Bits = typename Order::Bits;
  const auto* score = static_cast<const Bits*>(run.score);
  const auto threshold = static_cast<Bits>(run.threshold);
  std::int64_t index = run.index;
  std::int64_t ties = run.ties;
  std::int64_t w = 0;
#ifdef __AVX2__
  if constexpr (__is_same(Order, Magnitude<F32>)) w = keep_words(run, index, ties);
#endif
  for (; w < run.count; ++w) {
    run.keep[w] = keep_bits<Order>(run.words[w], score + index, threshold, ties);
    index += count_word(run.words[w]);
  }
}

template <typename Order>
constexpr ScoreKernels make_kernels() {
  return {Order::kShift, histogram<Order>, refine<Order>, keep<Order>};
}

}  // namespace

extern const SelectKernels kSelect;
const SelectKernels kSelect = {{
    {make_kernels<Magnitude<F32>>(), make_kernels<Signed<F32>>()},
    {make_kernels<Magnitude<F64>>(), make_kernels<Signed<F64>>()},
    {make_kernels<Magnitude<Bf16>>(), make_kernels<Signed<Bf16>>()},
    {make_kernels<Magnitude<F16>>(), make_kernels<Signed<F16>>()},
}};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
