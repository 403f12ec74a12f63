// SPDX-License-Identifier: BSD-3-Clause
// Inner loops over mask words: counting bits, the candidates of gradient growth, keyed draws.
#include "kernels/cpu/isa/lanes.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/half.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

std::int64_t count_bits(const std::uint32_t* words, std::int64_t count) {
  std::int64_t bits = 0;
  for (std::int64_t w = 0; w < count; ++w) bits += count_word(words[w]);
  return bits;
}

// ---- topk_hits ----

inline std::uint64_t magnitude_key(float x) {
  const std::uint32_t magnitude = float_bits(x) & 0x7FFFFFFFU;
  return magnitude > 0x7F800000U ? 0U : magnitude + 1U;
}

inline std::uint64_t magnitude_key(double x) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint64_t magnitude = bits & 0x7FFFFFFFFFFFFFFFULL;
  return magnitude > 0x7FF0000000000000ULL ? 0U : magnitude + 1U;
}

// Bit b: the key of grad[b], b < cols <= 32, is at least `threshold`.
template <typename T>
inline std::uint32_t compare_word(const T* grad, std::int64_t cols, std::uint64_t threshold) {
  std::uint32_t bits = 0;
  for (std::int64_t col = 0; col < cols; ++col) {
    bits |= static_cast<std::uint32_t>(magnitude_key(grad[col]) >= threshold) << col;
  }
  return bits;
}

#ifdef __AVX2__

// The same for 32 floats and a threshold above 0: NaN never passes, and keys are magnitudes + 1.
inline std::uint32_t compare_32(const float* grad, std::int32_t below) {
  std::uint32_t bits = 0;
  for (std::int64_t part = 0; part < 4; ++part) {
    const __m256i x = _mm256_and_si256(load_256(grad + 8 * part), _mm256_set1_epi32(0x7FFFFFFF));
    const __m256i nan = _mm256_cmpgt_epi32(x, _mm256_set1_epi32(0x7F800000));
    const __m256i pass = _mm256_andnot_si256(nan, _mm256_cmpgt_epi32(x, _mm256_set1_epi32(below)));
    bits |= static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(pass))) << (8 * part);
  }
  return bits;
}

#endif

template <typename T>
void topk_hits(const TopkRun& run) {
  const auto* grad = static_cast<const T*>(run.grad);
  std::int64_t word = 0;
#ifdef __AVX2__
  if constexpr (sizeof(T) == 4) {
    // key >= threshold  <=>  magnitude > threshold - 2; a float's key fits 31 bits.
    const auto below = static_cast<std::int32_t>(static_cast<std::int64_t>(run.threshold) - 2);
    for (; run.threshold > 0 && (word + 1) * kWordBits <= run.cols; ++word) {
      run.hits[word] = compare_32(grad + word * kWordBits, below) & ~run.words[word];
    }
  }
#endif
  for (; word * kWordBits < run.cols; ++word) {
    const std::int64_t rest = run.cols - word * kWordBits;
    const std::int64_t cols = rest < kWordBits ? rest : kWordBits;
    run.hits[word] = compare_word(grad + word * kWordBits, cols, run.threshold) & ~run.words[word];
  }
}

// ---- draws ----

// Philox4x32-10 (philox.h) for kLanes consecutive counters. A lane holds each word in the low half of 64
// bits.
constexpr int kLanes = 16;
constexpr std::uint64_t kLow = 0xFFFFFFFFU;

struct Lanes {
  alignas(64) std::uint64_t word[4][kLanes];
};

#ifdef __AVX2__

// Four lanes; the high halves fill with garbage that mul_epu32 does not read, and are cleared at the end.
inline void philox_4(std::uint64_t* word0, std::uint64_t* word1, std::uint64_t* word2, std::uint64_t* word3,
                     const DrawRun& run) {
  __m256i c0 = load_256(word0);
  __m256i c1 = load_256(word1);
  __m256i c2 = load_256(word2);
  __m256i c3 = load_256(word3);
  auto key0 = static_cast<std::uint32_t>(run.key);
  auto key1 = static_cast<std::uint32_t>(run.key >> 32);
  for (int round = 0; round < 10; ++round) {
    const __m256i product0 = _mm256_mul_epu32(c0, _mm256_set1_epi64x(0xD2511F53));
    const __m256i product1 = _mm256_mul_epu32(c2, _mm256_set1_epi64x(0xCD9E8D57));
    c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product1, 32), c1), _mm256_set1_epi64x(key0));
    c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product0, 32), c3), _mm256_set1_epi64x(key1));
    c1 = product1;
    c3 = product0;
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  const __m256i low = _mm256_set1_epi64x(static_cast<long long>(kLow));
  store_256(word0, _mm256_and_si256(c0, low));
  store_256(word1, _mm256_and_si256(c1, low));
  store_256(word2, _mm256_and_si256(c2, low));
  store_256(word3, _mm256_and_si256(c3, low));
}

inline void philox(Lanes& lanes, const DrawRun& run) {
  for (int i = 0; i < kLanes; i += 4) {
    philox_4(lanes.word[0] + i, lanes.word[1] + i, lanes.word[2] + i, lanes.word[3] + i, run);
  }
}

#else

inline void philox(Lanes& lanes, const DrawRun& run) {
  auto key0 = static_cast<std::uint32_t>(run.key);
  auto key1 = static_cast<std::uint32_t>(run.key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      const std::uint64_t product0 = lanes.word[0][i] * 0xD2511F53U;
      const std::uint64_t product1 = lanes.word[2][i] * 0xCD9E8D57U;
      lanes.word[0][i] = (product1 >> 32) ^ lanes.word[1][i] ^ key0;
      lanes.word[1][i] = product1 & kLow;
      lanes.word[2][i] = (product0 >> 32) ^ lanes.word[3][i] ^ key1;
      lanes.word[3][i] = product0 & kLow;
    }
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
}

#endif

void draws(const DrawRun& run) {
  Lanes lanes;
  for (std::int64_t begin = 0; begin < run.count; begin += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      const std::uint64_t half = run.half + static_cast<std::uint64_t>(begin + i);
      lanes.word[0][i] = half & kLow;
      lanes.word[1][i] = half >> 32;
      lanes.word[2][i] = run.update;
      lanes.word[3][i] = run.stream;
    }
    philox(lanes, run);
    const std::int64_t rest = run.count - begin;
    const int count = rest < kLanes ? static_cast<int>(rest) : kLanes;
    for (int i = 0; i < count; ++i) {
      run.draws[2 * (begin + i)] = lanes.word[0][i] | lanes.word[1][i] << 32;
      run.draws[2 * (begin + i) + 1] = lanes.word[2][i] | lanes.word[3][i] << 32;
    }
  }
}

}  // namespace

extern const MaskKernels kMask;
const MaskKernels kMask = {count_bits, {topk_hits<float>, topk_hits<double>}, draws};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
