// SPDX-License-Identifier: BSD-3-Clause
// tile_spmm, the two products. A weight costs one broadcast and one multiply-add per vector of tokens, both
// operands of which come from the L1 cache; the index costs nothing beside them.
#include "kernels/cpu/isa/vectors.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// Multiply-adds in flight must cover their latency: about eight independent sums.
constexpr int kSums = 8;

// One row: kVectors vectors of tokens at `part`, kWays partial sums each.
template <int kVectors>
inline void spmm_row(const SpmmRun& run, std::int64_t row, std::int64_t part) {
  constexpr int kWays = kVectors >= kSums ? 1 : kSums / kVectors;
  const std::uint16_t* const cols = run.panel.cols;
  const float* const x = run.x + part;
  float* const y = run.y + row * run.width + part;
  std::uint32_t k = run.panel.begin[row];
  const std::uint32_t end = run.panel.begin[row + 1];
  if (run.accumulate && k == end) return;
  Vector sum[kWays][kVectors];
#pragma GCC unroll 16
  for (std::int64_t v = 0; v < kVectors; ++v) {
    sum[0][v] = run.accumulate ? load_aligned(y + v * kLanes) : Vector{};
#pragma GCC unroll 16
    for (int way = 1; way < kWays; ++way) sum[way][v] = Vector{};
  }
  for (; k + kWays <= end; k += kWays) {
#pragma GCC unroll 16
    for (int way = 0; way < kWays; ++way) {
      const float weight = run.values[k + static_cast<std::uint32_t>(way)];
      const float* const tokens = x + std::int64_t{cols[k + static_cast<std::uint32_t>(way)]} * run.width;
#pragma GCC unroll 16
      for (std::int64_t v = 0; v < kVectors; ++v) sum[way][v] += weight * load_aligned(tokens + v * kLanes);
    }
  }
  if constexpr (kWays > 1) {
    for (; k < end; ++k) {
      const float* const tokens = x + std::int64_t{cols[k]} * run.width;
#pragma GCC unroll 16
      for (std::int64_t v = 0; v < kVectors; ++v)
        sum[0][v] += run.values[k] * load_aligned(tokens + v * kLanes);
    }
  }
#pragma GCC unroll 16
  for (std::int64_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 16
    for (int way = 1; way < kWays; ++way) sum[0][v] += sum[way][v];
    store_aligned(y + v * kLanes, sum[0][v]);
  }
}

// Tokens beyond one pass wait: what a pass reads of x should stay in the cache.
template <int kTokens>
void spmm(const SpmmRun& run) {
  constexpr int kVectors = kTokens / kLanes < kSums ? kTokens / kLanes : kSums;
  for (std::int64_t part = 0; part < run.width; part += std::int64_t{kVectors} * kLanes) {
    for (std::int64_t row = 0; row < run.panel.rows; ++row) spmm_row<kVectors>(run, row, part);
  }
}

// Sums of the lanes of four vectors.
inline Vector4 sum_lanes(Vector4 a, Vector4 b, Vector4 c, Vector4 d) {
  const Vector4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Vector4 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// A vector folded to four lanes.
template <typename V>
inline Vector4 fold(V x) {
  if constexpr (sizeof(V) == sizeof(VectorOf<16>)) {
    return fold<Vector8>(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                         __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
  } else if constexpr (sizeof(V) == sizeof(Vector8)) {
    return __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
  } else {
    return x;
  }
}

// kOutputs neighbouring weights of one row, all tiles: sums[j] for the first `count`, others are duplicates.
template <int kOutputs>
inline void dot(const SddmmRun& run, const std::uint16_t* cols, const float* dy, std::uint32_t count,
                float* out) {
  const float* x[kOutputs];
#pragma GCC unroll 16
  for (std::uint32_t j = 0; j < kOutputs; ++j) {
    x[j] = run.x + std::int64_t{cols[j < count ? j : 0]} * run.width;
  }
  Vector sum[kOutputs];
#pragma GCC unroll 16
  for (int j = 0; j < kOutputs; ++j) sum[j] = Vector{};
  std::int64_t offset = 0;
  for (std::int64_t tile = 0; tile < run.tiles; ++tile) {
    for (std::int64_t t = 0; t < run.width; t += kLanes) {
      const Vector gradient = load_aligned(dy + t);
#pragma GCC unroll 16
      for (int j = 0; j < kOutputs; ++j) sum[j] += gradient * load_aligned(x[j] + offset + t);
    }
    offset += run.x_stride;
    dy += run.dy_stride;
  }
  float sums[kOutputs];
#pragma GCC unroll 4
  for (int j = 0; j < kOutputs; j += 4) {
    store(sums + j, sum_lanes(fold(sum[j]), fold(sum[j + 1]), fold(sum[j + 2]), fold(sum[j + 3])));
  }
  if (count == kOutputs) {
#pragma GCC unroll 4
    for (int j = 0; j < kOutputs; j += 4) {
      const Vector4 fresh = load<Vector4>(sums + j);
      store(out + j, run.accumulate ? load<Vector4>(out + j) + fresh : fresh);
    }
    return;
  }
  for (std::uint32_t j = 0; j < count; ++j) out[j] = run.accumulate ? out[j] + sums[j] : sums[j];
}

void sddmm(const SddmmRun& run) {
  for (std::int64_t row = 0; row < run.panel.rows; ++row) {
    const std::uint16_t* cols = run.panel.cols + run.panel.begin[row];
    const float* const dy = run.dy + row * run.width;
    float* out = run.out + run.packed[row];
    std::uint32_t left = run.panel.begin[row + 1] - run.panel.begin[row];
    for (; left > 4; cols += 8, out += 8) {
      const std::uint32_t count = left < 8 ? left : 8;
      dot<8>(run, cols, dy, count, out);
      left -= count;
    }
    if (left > 0) dot<4>(run, cols, dy, left, out);
  }
}

}  // namespace

extern const TileProducts kTileProducts;
const TileProducts kTileProducts = {kLanes, {spmm<16>, spmm<32>, spmm<64>, spmm<128>}, sddmm};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
