// SPDX-License-Identifier: BSD-3-Clause
// relayout, inner loops: expand a word's old weights to its 32 columns, newborns filled in, and compress the
// columns of the new mask.
#include "kernels/cpu/isa/lanes.h"
#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// What happens to a survivor on its way: nothing, or, for cohort ids, the recycled one becomes 0.
template <typename T>
struct Move {
  using Element = T;
  explicit Move(const RelayoutRun& /*run*/) {}
  static T survivor(T x) { return x; }
#ifdef __AVX2__
  static __m128i survivors(__m128i x) {
    return x;
  }
#endif
};

struct Recycle {
  using Element = std::uint8_t;
  explicit Recycle(const RelayoutRun& run) : id(run.recycled) {}
  std::uint8_t survivor(std::uint8_t x) const { return x == id ? std::uint8_t{0} : x; }
#ifdef __AVX2__
  __m128i survivors(__m128i x) const {
    return _mm_andnot_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8(static_cast<char>(id))), x);
  }
#endif
  std::uint8_t id;
};

template <typename Policy, typename T>
inline void relayout_bits(const Policy& policy, std::uint32_t old_word, std::uint32_t new_word,
                          const T* source, T fill, T* destination) {
  for (std::uint32_t bits = old_word | new_word; bits != 0; bits &= bits - 1) {
    const std::uint32_t bit = bits & (~bits + 1);
    const bool was_active = (old_word & bit) != 0;
    if ((new_word & bit) != 0) *destination++ = was_active ? policy.survivor(*source) : fill;
    source += static_cast<int>(was_active);
  }
}

#ifdef __AVX2__

// Eight columns: reads eight of `source` and writes eight of `destination`, however many are meant; what
// follows is written over the surplus, or nobody reads it.
template <typename Policy>
inline void relayout_8(const Policy& /*moves*/, const std::uint32_t* source, std::uint32_t old_byte,
                       std::uint32_t new_byte, std::uint32_t fill, std::uint32_t* destination) {
  const __m256i other = _mm256_set1_epi32(static_cast<int>(fill));
  const __m256i columns = expand_lanes(load_256(source), other, old_byte);
  store_256(destination, compress_lanes(columns, new_byte));
}

template <typename Policy>
inline void relayout_8(const Policy& /*moves*/, const std::uint16_t* source, std::uint32_t old_byte,
                       std::uint32_t new_byte, std::uint16_t fill, std::uint16_t* destination) {
  const __m128i index = load_128(kLookup.expand16[old_byte]);
  const __m128i other = _mm_set1_epi16(static_cast<short>(fill));
  const __m128i columns = _mm_blendv_epi8(_mm_shuffle_epi8(load_128(source), index), other, index);
  store_128(destination, _mm_shuffle_epi8(columns, load_128(kLookup.compress16[new_byte])));
}

template <typename Policy>
inline void relayout_8(const Policy& policy, const std::uint8_t* source, std::uint32_t old_byte,
                       std::uint32_t new_byte, std::uint8_t fill, std::uint8_t* destination) {
  const __m128i index = load_64(kLookup.expand[old_byte]);
  const __m128i other = _mm_set1_epi8(static_cast<char>(fill));
  const __m128i moved = _mm_shuffle_epi8(policy.survivors(load_64(source)), index);
  const __m128i columns = _mm_blendv_epi8(moved, other, index);
  store_64(destination, _mm_shuffle_epi8(columns, load_64(kLookup.compress[new_byte])));
}

#endif

// Moves one word's weights eight columns at a time; false, and nothing moved, where that could touch elements
// outside source[0, source_left) and destination[0, destination_left).
template <typename Policy, typename T>
inline bool relayout_word([[maybe_unused]] const Policy& policy, std::uint32_t old_word,
                          std::uint32_t new_word, const T* source, std::int64_t source_left, T fill,
                          T* destination, std::int64_t destination_left) {
#ifdef __AVX2__
  if constexpr (sizeof(T) < 8) {
    constexpr std::int64_t kReach = kWordBits + 8;
    if (source_left < kReach || destination_left < kReach) return false;
    for (int part = 0; part < 4; ++part) {
      const std::uint32_t below = (1U << (8 * part)) - 1U;
      relayout_8(policy, source + count_word(old_word & below), old_word >> (8 * part) & 0xFFU,
                 new_word >> (8 * part) & 0xFFU, fill, destination + count_word(new_word & below));
    }
    return true;
  }
#endif
  (void)old_word, (void)new_word, (void)source, (void)source_left, (void)fill, (void)destination;
  (void)destination_left;
  return false;
}

template <typename Policy>
void relayout(const RelayoutRun& run) {
  using T = typename Policy::Element;
  const Policy policy(run);
  const auto* source = static_cast<const T*>(run.source) + run.index;
  const auto* source_end = static_cast<const T*>(run.source) + run.nnz;
  auto* destination = static_cast<T*>(run.destination) + run.new_index;
  const auto* destination_end = static_cast<T*>(run.destination) + run.new_end;
  T fill;
  std::memcpy(&fill, run.fill, sizeof fill);
  for (std::int64_t w = 0; w < run.words; ++w) {
    const std::uint32_t old_word = run.old_words[w];
    const std::uint32_t new_word = run.new_words[w];
    if (!relayout_word(policy, old_word, new_word, source, source_end - source, fill, destination,
                       destination_end - destination)) {
      relayout_bits(policy, old_word, new_word, source, fill, destination);
    }
    source += count_word(old_word);
    destination += count_word(new_word);
  }
}

// The same for cohort ids, counting the pruned weights of each id.
void relayout_cohort(const RelayoutRun& run, std::int64_t* died) {
  relayout<Recycle>(run);
  const auto* source = static_cast<const std::uint8_t*>(run.source) + run.index;
  for (std::int64_t w = 0; w < run.words; ++w) {
    const std::uint32_t old_word = run.old_words[w];
    for (std::uint32_t bits = old_word & ~run.new_words[w]; bits != 0; bits &= bits - 1) {
      const std::uint32_t below = (bits & (~bits + 1)) - 1;
      ++died[source[count_word(old_word & below)]];
    }
    source += count_word(old_word);
  }
}

}  // namespace

extern const RelayoutKernels kRelayout;
const RelayoutKernels kRelayout = {
    {relayout<Move<std::uint8_t>>, relayout<Move<std::uint16_t>>, relayout<Move<std::uint32_t>>,
     relayout<Move<std::uint64_t>>},
    relayout_cohort,
};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
