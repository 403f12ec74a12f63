// SPDX-License-Identifier: BSD-3-Clause
// The cohort table's rows for sixteen weights at a time. Only for kernels/cpu/isa: everything is in an
// unnamed namespace (see isa_kernels.h).
#pragma once

#include "kernels/cpu/isa/lanes.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

inline constexpr int kGroup = 16;

// A group is one vector of AVX-512: GCC unrolls such a loop first, finds no loop to vectorise then, and
// leaves sixteen scalar copies (bf16 moments: 1.8 ns a weight in the cache, .6 as a vector). Shorter vectors
// gain by unrolling.
#ifdef __AVX512F__
#define SMET_VECTORISED _Pragma("GCC unroll 1")
#else
#define SMET_VECTORISED
#endif

// The table rows of one group, lane by lane.
template <typename Compute>
struct Rows {
  alignas(64) Compute decay[kGroup];
  alignas(64) Compute step[kGroup];  // -step_size
  alignas(64) Compute inverse_bc2_sqrt[kGroup];
};

template <typename Compute>
inline void broadcast_row(const Compute* table, int id, Rows<Compute>& rows) {
  const Compute* row = table + std::int64_t{4} * id;
  for (int lane = 0; lane < kGroup; ++lane) {
    rows.decay[lane] = row[0];
    rows.step[lane] = row[1];
    rows.inverse_bc2_sqrt[lane] = row[2];
  }
}

template <typename Compute>
inline void look_up(const Compute* table, const std::uint8_t* ids, int count, Rows<Compute>& rows) {
  for (int lane = 0; lane < count; ++lane) {
    const Compute* row = table + std::int64_t{4} * ids[lane];
    rows.decay[lane] = row[0];
    rows.step[lane] = row[1];
    rows.inverse_bc2_sqrt[lane] = row[2];
  }
}

#ifdef __AVX2__

// Two rows in the halves of one register.
inline __m256 load_rows(const float* table, std::int64_t low, std::int64_t high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(table + 4 * low)),
                              _mm_loadu_ps(table + 4 * high), 1);
}

// Eight rows of four floats, transposed: three registers of eight lanes.
inline void look_up_8(const float* table, const std::uint8_t* ids, float* decay, float* step,
                      float* inverse_bc2_sqrt) {
  const __m256 rows04 = load_rows(table, ids[0], ids[4]);
  const __m256 rows15 = load_rows(table, ids[1], ids[5]);
  const __m256 rows26 = load_rows(table, ids[2], ids[6]);
  const __m256 rows37 = load_rows(table, ids[3], ids[7]);
  const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(rows04, rows15));
  const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(rows26, rows37));
  const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(rows04, rows15));
  const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(rows26, rows37));
  _mm256_storeu_ps(decay, _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)));
  _mm256_storeu_ps(step, _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)));
  _mm256_storeu_ps(inverse_bc2_sqrt, _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23)));
}

template <>
inline void look_up<float>(const float* table, const std::uint8_t* ids, int count, Rows<float>& rows) {
  int lane = 0;
  for (; lane + 8 <= count; lane += 8) {
    look_up_8(table, ids + lane, rows.decay + lane, rows.step + lane, rows.inverse_bc2_sqrt + lane);
  }
  for (; lane < count; ++lane) {
    const float* row = table + std::int64_t{4} * ids[lane];
    rows.decay[lane] = row[0];
    rows.step[lane] = row[1];
    rows.inverse_bc2_sqrt[lane] = row[2];
  }
}

#endif

// Whether sixteen ids are equal.
inline bool uniform(const std::uint8_t* ids) {
  std::uint64_t low;
  std::uint64_t high;
  std::memcpy(&low, ids, 8);
  std::memcpy(&high, ids + 8, 8);
  return low == high && low == ids[0] * 0x0101010101010101ULL;
}

// The rows of one group after another. Most groups are of one cohort, and mostly of the last one's.
template <typename Compute>
class GroupRows {
 public:
  explicit GroupRows(const Compute* table) : table_(table) { broadcast_row(table_, held_, rows_); }

  [[gnu::always_inline]] const Rows<Compute>& of(const std::uint8_t* ids) {
    if (ids == nullptr || (ids[0] == held_ && uniform(ids))) return rows_;
    if (uniform(ids)) {
      held_ = ids[0];
      broadcast_row(table_, held_, rows_);
    } else {
      held_ = -1;
      look_up(table_, ids, kGroup, rows_);
    }
    return rows_;
  }

  // Of a group of fewer than sixteen.
  const Rows<Compute>& of(const std::uint8_t* ids, int count) {
    if (ids == nullptr) return rows_;
    held_ = -1;
    look_up(table_, ids, count, rows_);
    return rows_;
  }

 private:
  Rows<Compute> rows_;
  const Compute* table_;
  int held_ = 0;  // the id whose row fills `rows_`, or -1
};

}  // namespace
}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
