// SPDX-License-Identifier: BSD-3-Clause
// tile_spmm, positions: mask bits -> 16-bit columns, once per call and not once per tile of tokens.
#include "kernels/cpu/isa/lanes.h"
#include "kernels/cpu/isa/vectors.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// Whether the panel has `some` active positions in `words` mask words, or more: its first rows stand for it.
inline bool has_active(const PanelRun& run, std::int64_t some, std::int64_t words) {
  const std::int64_t row_words = (run.cols + kWordBits - 1) / kWordBits;
  const std::int64_t rows = run.rows < 8 ? run.rows : 8;
  std::int64_t active = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t w = 0; w < row_words; ++w) active += count_word(run.words[row * run.words_per_row + w]);
  }
  return active * words >= rows * row_words * some;
}

#ifdef __AVX512VBMI2__

inline constexpr std::uint8_t kNumbers[kWordBits] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                                     11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                                     22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

// The columns of one word after another, 32 at once and without a branch: no density costs mispredictions.
class Columns {
 public:
  void write(std::uint32_t word, std::uint16_t* cols) {
    _mm512_storeu_si512(cols, _mm512_maskz_compress_epi16(word, places_));
    places_ = _mm512_add_epi16(places_, _mm512_set1_epi16(kWordBits));
  }

 private:
  __m512i places_ = _mm512_cvtepu8_epi16(load_256(kNumbers));
};

// Columns and their values; reads no more than these.
inline std::int64_t decode_words(const std::uint32_t* words, std::int64_t count, const float* values,
                                 std::uint16_t* cols, float* out) {
  Columns columns;
  std::int64_t n = 0;
  for (std::int64_t w = 0; w < count; ++w) {
    columns.write(words[w], cols + n);
    const std::int64_t found = count_word(words[w]);
    const auto wanted = static_cast<std::uint32_t>((std::uint64_t{1} << found) - 1);
    const auto low = static_cast<__mmask16>(wanted);
    const auto high = static_cast<__mmask16>(wanted >> 16);
    _mm512_storeu_ps(out + n, _mm512_maskz_loadu_ps(low, values + n));
    _mm512_storeu_ps(out + n + 16, _mm512_maskz_loadu_ps(high, values + n + 16));
    n += found;
  }
  return n;
}

inline constexpr bool kDecodesValues = true;
#else
inline constexpr bool kDecodesValues = false;
#endif

// Columns of the set bits of `words`, ascending; returns their number. On AVX2 every byte is looked up, empty
// or not, unless the words are `bare`: nothing predicts how often to jump from bit to bit. Forward of
// 2048x2048: 12 % faster at d = .05, 5 % at .01; at .002 27 % slower.
inline std::int64_t decode_words(const std::uint32_t* words, std::int64_t count, [[maybe_unused]] bool bare,
                                 std::uint16_t* cols) {
  std::int64_t n = 0;
#if defined(__AVX512VBMI2__)
  Columns columns;
  for (std::int64_t w = 0; w < count; ++w) {
    columns.write(words[w], cols + n);
    n += count_word(words[w]);
  }
  return n;
#elif defined(__AVX2__)
  if (!bare) {
    for (std::int64_t w = 0; w < count; ++w) {
      for (std::int64_t byte = 0; byte < 4; ++byte) {
        const std::uint32_t bits = words[w] >> (8 * byte) & 0xFFU;
        const auto base = static_cast<short>(w * kWordBits + 8 * byte);
        const __m128i lanes = _mm_cvtepu8_epi16(load_64(kLookup.compress[bits]));
        store_128(cols + n, _mm_add_epi16(lanes, _mm_set1_epi16(base)));
        n += count_word(bits);
      }
    }
    return n;
  }
#endif
  for (std::int64_t w = 0; w < count; ++w) {
    for (std::uint32_t bits = words[w]; bits != 0; bits &= bits - 1) {
      cols[n++] = static_cast<std::uint16_t>(w * kWordBits + lowest_bit(bits));
    }
  }
  return n;
}
inline bool is_bare(const PanelRun& run) {
  return !has_active(run, 1, 4);
}

// `count` widened values from `from`, of which `readable` may be read.
template <Storage storage>
inline void widen_run(const typename Stored<storage>::Type* from, std::int64_t count, std::int64_t readable,
                      float* to) {
  std::int64_t i = 0;
  if constexpr (storage == Storage::f32) {
    for (; i < count && i + 8 <= readable; i += 8) std::memcpy(to + i, from + i, 8 * sizeof(float));
  }
  for (; i < count; ++i) to[i] = Stored<storage>::widen(from[i]);
}

// order = the rows or columns by their lengths, those of equal length as they are.
inline void sort_by_length(const std::uint32_t* lengths, std::int64_t count, std::uint16_t* order) {
  constexpr std::uint32_t kLengths = 64;  // and one for all longer ones
  std::uint32_t shortest = ~0U;
  for (std::int64_t i = 0; i < count; ++i) shortest = lengths[i] < shortest ? lengths[i] : shortest;
  const auto bucket = [=](std::uint32_t length) {
    return length - shortest < kLengths ? length - shortest : kLengths;
  };
  std::uint32_t next[kLengths + 1] = {};
  for (std::int64_t i = 0; i < count; ++i) ++next[bucket(lengths[i])];
  std::uint32_t before = 0;
  for (std::uint32_t& place : next) {
    const std::uint32_t found = place;
    place = before;
    before += found;
  }
  for (std::int64_t i = 0; i < count; ++i) order[next[bucket(lengths[i])]++] = static_cast<std::uint16_t>(i);
}

inline void sort_rows(const PanelRun& run, std::int64_t words) {
  for (std::int64_t row = 0; row < run.rows; ++row) {
    const std::uint32_t* const row_words = run.words + row * run.words_per_row;
    std::int64_t length = 0;
    for (std::int64_t w = 0; w < words; ++w) length += count_word(row_words[w]);
    run.lengths[row] = static_cast<std::uint32_t>(length);
  }
  sort_by_length(run.lengths, run.rows, run.order);
}

template <Storage storage>
std::uint32_t decode(const PanelRun& run) {
  const auto* const values = static_cast<const typename Stored<storage>::Type*>(run.values);
  const std::int64_t words = (run.cols + kWordBits - 1) / kWordBits;
  const bool bare = is_bare(run);
  if (run.order != nullptr) sort_rows(run, words);
  std::uint32_t at = run.first;
  for (std::int64_t i = 0; i < run.rows; ++i) {
    const std::int64_t row = run.order == nullptr ? i : run.order[i];
    const std::uint32_t* const row_words = run.words + row * run.words_per_row;
    const std::int64_t from = run.cursor[row];
    run.begin[i] = at;
    std::int64_t count;
    if constexpr (kDecodesValues && storage == Storage::f32) {
      count = values == nullptr ? decode_words(row_words, words, bare, run.index + at)
                                : decode_words(row_words, words, values + from, run.index + at, run.out + at);
    } else {
      count = decode_words(row_words, words, bare, run.index + at);
      if (values != nullptr) widen_run<storage>(values + from, count, run.nnz - from, run.out + at);
    }
    run.cursor[row] += static_cast<std::uint32_t>(count);
    at += static_cast<std::uint32_t>(count);
  }
  run.begin[run.rows] = at;
  return at;
}

// Begins the columns one after the other, and turns each length into its column's begin.
inline void begin_columns(const PanelRun& run) {
  if (run.order != nullptr) sort_by_length(run.lengths, run.cols, run.order);
  std::uint32_t at = run.first;
  for (std::int64_t i = 0; i < run.cols; ++i) {
    std::uint32_t& column = run.lengths[run.order == nullptr ? i : run.order[i]];
    const std::uint32_t length = column;
    run.begin[i] = column = at;
    at += length;
  }
  run.begin[run.cols] = at;
}

#ifdef __AVX512VBMI2__

// Below this share of set bits a gather of sixteen rows finds too few: a tie at d = .1; at d = .5 the input
// gradient takes .98 of dense's time and 1.19 with a sort (768x768).
constexpr std::int64_t kGatherBits = 4;  // of a mask word

// lengths = the weights of every column.
inline void count_columns(const PanelRun& run) {
  for (std::int64_t begin = 0; begin < run.cols; begin += kWordBits) {
    const std::uint32_t* word = run.words + begin / kWordBits;
    __m512i counts = _mm512_setzero_si512();
    for (std::int64_t row = 0; row < run.rows; ++row, word += run.words_per_row) {
      counts = _mm512_mask_add_epi16(counts, *word, counts, _mm512_set1_epi16(1));
    }
    std::uint16_t lengths[kWordBits];
    _mm512_storeu_si512(lengths, counts);
    const std::int64_t left = run.cols - begin;
    for (std::int64_t col = 0; col < kWordBits && col < left; ++col) run.lengths[begin + col] = lengths[col];
  }
}

// Column after column, sixteen rows at once: the rows with a weight there, compressed, and their next values,
// gathered.
inline std::uint32_t gather_columns(const PanelRun& run, const float* values) {
  constexpr std::int64_t kGroup = 16;
  count_columns(run);
  begin_columns(run);
  std::uint32_t* const places = run.lengths;
  const __m256i first_rows = _mm256_cvtepu8_epi16(load_128(kNumbers));
  std::uint32_t* const words = run.counts;  // of the panel's rows, at the column
  for (std::int64_t col = 0; col < run.cols; ++col) {
    if (col % kWordBits == 0) {
      const std::uint32_t* const from = run.words + col / kWordBits;
      for (std::int64_t row = 0; row < run.rows; ++row) words[row] = from[row * run.words_per_row];
    }
    const __m512i wanted = _mm512_set1_epi32(static_cast<int>(1U << (col % kWordBits)));
    std::uint32_t at = places[col];
    for (std::int64_t row = 0; row < run.rows; row += kGroup) {
      const std::int64_t left = run.rows - row;
      const auto exist = static_cast<__mmask16>(left < kGroup ? (1U << left) - 1 : 0xFFFFU);
      const __m512i next = _mm512_maskz_loadu_epi32(exist, run.cursor + row);
      const __mmask16 found = _mm512_test_epi32_mask(_mm512_maskz_loadu_epi32(exist, words + row), wanted);
      const auto count = static_cast<std::uint32_t>(count_word(found));
      const auto low = static_cast<__mmask16>((1U << count) - 1);
      const __m512 gathered = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), found, next, values, 4);
      const __m256i rows = _mm256_add_epi16(first_rows, _mm256_set1_epi16(static_cast<short>(row)));
      _mm512_mask_storeu_ps(run.out + at, low, _mm512_maskz_compress_ps(found, gathered));
      _mm256_mask_storeu_epi16(run.index + at, low, _mm256_maskz_compress_epi16(found, rows));
      _mm512_mask_storeu_epi32(run.cursor + row, found, _mm512_add_epi32(next, _mm512_set1_epi32(1)));
      at += count;
    }
  }
  return run.begin[run.cols];
}
#endif

// A counting sort by column; rows stay in order.
template <Storage storage>
std::uint32_t sort_by_column(const PanelRun& run) {
  const auto* const values = static_cast<const typename Stored<storage>::Type*>(run.values);
  const std::int64_t words = (run.cols + kWordBits - 1) / kWordBits;
  const bool bare = is_bare(run);
  for (std::int64_t col = 0; col < run.cols; ++col) run.lengths[col] = 0;
  std::uint16_t* decoded = run.decoded;
  for (std::int64_t row = 0; row < run.rows; ++row) {
    const std::int64_t count = decode_words(run.words + row * run.words_per_row, words, bare, decoded);
    run.counts[row] = static_cast<std::uint32_t>(count);
    decoded += count;
  }
  for (const std::uint16_t* col = run.decoded; col < decoded; ++col) ++run.lengths[*col];
  begin_columns(run);
  std::uint32_t* const places = run.lengths;
  decoded = run.decoded;
  for (std::int64_t row = 0; row < run.rows; ++row) {
    const auto* const from = values + run.cursor[row];
    const std::uint32_t count = run.counts[row];
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t to = places[decoded[i]]++;
      run.index[to] = static_cast<std::uint16_t>(row);
      run.out[to] = Stored<storage>::widen(from[i]);
    }
    run.cursor[row] += count;
    decoded += count;
  }
  return run.begin[run.cols];
}

template <Storage storage>
std::uint32_t transpose(const PanelRun& run) {
#ifdef __AVX512VBMI2__
  if constexpr (storage == Storage::f32) {
    if (has_active(run, kGatherBits, 1)) return gather_columns(run, static_cast<const float*>(run.values));
  }
#endif
  return sort_by_column<storage>(run);
}

}  // namespace

extern const TileDecode kTileDecode;
const TileDecode kTileDecode = {{decode<Storage::f32>, decode<Storage::bf16>, decode<Storage::f16>},
                                {transpose<Storage::f32>, transpose<Storage::bf16>, transpose<Storage::f16>}};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
