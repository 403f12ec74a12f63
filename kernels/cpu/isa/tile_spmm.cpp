// SPDX-License-Identifier: BSD-3-Clause
// tile_spmm, the two products. A weight costs one broadcast and one multiply-add per vector of tokens, both
// operands of which come from the L1 cache; the index costs nothing beside them.
#include "kernels/cpu/isa/vectors.h"

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

// Multiply-adds in flight must cover their latency: about eight independent sums.
constexpr int kSums = 8;

// Keeps an address in one register. Left to itself the compiler gives every vector an address of base and
// index, and an AVX-512 multiply-add with an indexed operand is two operations of the processor: .64 instead
// of .70 of what the L1 delivers (768x768, d = .5). A row's own addresses it computes one by one: 3 to 5 % of
// a product.
template <typename T>
inline T* one_register(T* address) {
  asm("" : "+r"(address));
  return address;
}

// kVectors vectors of tokens of one row with the weights [k, end), kWays partial sums each. kWidth: tokens of
// a tile, or 0 where only the run knows: a constant makes a column's place a shift.
template <int kVectors, std::int64_t kWidth>
[[gnu::always_inline]] inline void spmm_row(const SpmmRun& run, std::int64_t k, std::int64_t end,
                                            const float* x, float* __restrict y) {
  const std::uint16_t* __restrict const cols = run.panel.cols;
  const float* __restrict const values = run.values;
  constexpr int kWays = kVectors >= kSums ? 1 : kSums / kVectors;
  const std::int64_t width = kWidth > 0 ? kWidth : run.width;
  Vector sum[kWays][kVectors];
  y = one_register(y);
#pragma GCC unroll 16
  for (std::int64_t v = 0; v < kVectors; ++v) {
    sum[0][v] = run.accumulate ? load_aligned(y + v * kLanes) : Vector{};
#pragma GCC unroll 16
    for (int way = 1; way < kWays; ++way) sum[way][v] = Vector{};
  }
  const auto add = [&](int way, std::int64_t weight) __attribute__((always_inline)) {
    const float* const tokens = one_register(x + cols[weight] * width);
    const float value = values[weight];
#pragma GCC unroll 16
    for (std::int64_t v = 0; v < kVectors; ++v) sum[way][v] += value * load_aligned(tokens + v * kLanes);
  };
  for (; k + kWays <= end; k += kWays) {
#pragma GCC unroll 16
    for (int way = 0; way < kWays; ++way) add(way, k + way);
  }
  if constexpr (kWays > 1) {
    for (; k < end; ++k) add(0, k);
  }
  y = one_register(y);
#pragma GCC unroll 16
  for (std::int64_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 16
    for (int way = 1; way < kWays; ++way) sum[0][v] += sum[way][v];
    store_aligned(y + v * kLanes, sum[0][v]);
  }
}

template <int kVectors, std::int64_t kWidth>
void spmm_rows(const SpmmRun& of, std::int64_t part) {
  const SpmmRun run = of;  // a copy: what is stored could be `of` for all that the compiler knows
  const std::int64_t width = kWidth > 0 ? kWidth : run.width;
  for (std::int64_t i = 0; i < run.panel.rows; ++i) {
    const std::uint32_t begin = run.panel.begin[i];
    const std::uint32_t end = run.panel.begin[i + 1];
    if (run.accumulate && begin == end) continue;
    const std::int64_t row = run.order == nullptr ? i : run.order[i];
    spmm_row<kVectors, kWidth>(run, begin, end, run.x + part, run.y + row * width + part);
  }
}

// Tokens beyond one pass wait: what a pass reads of x should stay in the cache.
template <int kTokens>
void spmm(const SpmmRun& run) {
  constexpr int kVectors = kTokens / kLanes < kSums ? kTokens / kLanes : kSums;
  constexpr std::int64_t kPass = std::int64_t{kVectors} * kLanes;
  if (run.width == kPass) return spmm_rows<kVectors, kPass>(run, 0);
  for (std::int64_t part = 0; part < run.width; part += kPass) spmm_rows<kVectors, 0>(run, part);
}

// Every four lanes: those four of a, of b, of c and of d, each summed.
inline Vector sum_fours(Vector a, Vector b, Vector c, Vector d) {
  const LanePlaces places{};
  const Vector ab = interleave<0>(a, b, places) + interleave<2>(a, b, places);
  const Vector cd = interleave<0>(c, d, places) + interleave<2>(c, d, places);
  return pair<0>(ab, cd, places) + pair<2>(ab, cd, places);
}

// A vector folded to four lanes.
template <typename V>
inline Vector4 fold(V x) {
  if constexpr (sizeof(V) == sizeof(VectorOf<16>)) {
    return fold(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
  } else if constexpr (sizeof(V) == sizeof(VectorOf<8>)) {
    return __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
  } else {
    return x;
  }
}

// Two vectors folded to four lanes each, side by side.
template <typename V>
inline auto fold_both(V low, V high) {
  if constexpr (sizeof(V) == sizeof(VectorOf<16>)) {
    const V x =
        __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
        __builtin_shufflevector(low, high, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    return __builtin_shufflevector(x, x, 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(x, x, 4, 5, 6, 7, 12, 13, 14, 15);
  } else {
    return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// sums[j] = (add ? sums[j] : 0) + the sum of sum[j]'s lanes, for kOutputs vectors.
template <int kOutputs, typename V>
inline void sum_lanes(const V* sum, bool add, float* sums) {
  if constexpr (kOutputs == 4) {
    const Vector4 fresh = fold(sum_fours(sum[0], sum[1], sum[2], sum[3]));
    store(sums, add ? load<Vector4>(sums) + fresh : fresh);
  } else if constexpr (sizeof(V) == sizeof(Vector4)) {
    sum_lanes<4>(sum, add, sums);
    sum_lanes<4>(sum + 4, add, sums + 4);
  } else {
    const auto fresh =
        fold_both(sum_fours(sum[0], sum[1], sum[2], sum[3]), sum_fours(sum[4], sum[5], sum[6], sum[7]));
    store(sums, add ? load<VectorOf<8>>(sums) + fresh : fresh);
  }
}

// A row of dy. kTiles > 0: that many tiles, kept in registers for all weights of the row; else as many as the
// run has, loaded for every group of weights.
template <std::int64_t kWidth, int kTiles>
class GradientRow {
 public:
  static constexpr std::int64_t kVectors = kWidth / kLanes;  // of a tile

  [[gnu::always_inline]] GradientRow(const SddmmRun& run, std::int64_t row) : dy_(run.dy + row * kWidth) {
#pragma GCC unroll 2
    for (std::int64_t tile = 0; tile < kTiles; ++tile) {
      const float* const of_tile = one_register(dy_ + tile * run.dy_stride);
#pragma GCC unroll 16
      for (std::int64_t v = 0; v < kVectors; ++v)
        kept_[tile * kVectors + v] = load_aligned(of_tile + v * kLanes);
    }
  }
  [[gnu::always_inline]] Vector at(const SddmmRun& run, std::int64_t tile, std::int64_t v) const {
    if constexpr (kTiles > 0) return kept_[tile * kVectors + v];
    return load_aligned(dy_ + tile * run.dy_stride + v * kLanes);
  }

 private:
  const float* dy_;
  Vector kept_[kTiles > 0 ? kTiles* kVectors : 1];
};

// kCount neighbouring weights of one row, all tiles.
template <int kCount, std::int64_t kWidth, int kTiles>
[[gnu::always_inline]] inline void dot(const SddmmRun& run, const GradientRow<kWidth, kTiles>& dy,
                                       const std::uint16_t* cols, float* out) {
  constexpr int kSumVectors = kCount > 4 ? 8 : 4;
  const float* x[kCount];
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j) x[j] = run.x + cols[j] * kWidth;
  Vector sum[kSumVectors];
#pragma GCC unroll 8
  for (int j = 0; j < kSumVectors; ++j) sum[j] = Vector{};
  const auto add_tile = [&](std::int64_t tile) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) x[j] = one_register(x[j]);
#pragma GCC unroll 16
    for (std::int64_t v = 0; v < kWidth / kLanes; ++v) {
      const Vector gradient = dy.at(run, tile, v);
#pragma GCC unroll 8
      for (int j = 0; j < kCount; ++j) sum[j] += gradient * load_aligned(x[j] + v * kLanes);
    }
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) x[j] += run.x_stride;
  };
  if constexpr (kTiles > 0) {
    add_tile(0);
    if constexpr (kTiles > 1) add_tile(1);
  } else {
    for (std::int64_t tile = 0; tile < run.tiles; ++tile) add_tile(tile);
  }
  if constexpr (kCount == kSumVectors) {
    sum_lanes<kCount>(sum, run.accumulate, out);
  } else {
    float sums[kSumVectors];
    sum_lanes<kSumVectors>(sum, false, sums);
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) out[j] = run.accumulate ? out[j] + sums[j] : sums[j];
  }
}

// A row's weights of the panel are one or two lines of `out`, pages away from the next row's: nothing but the
// program knows where. 1.47 -> 1.10 of dense at d = .5 (2048x2048, values gradient).
inline void prefetch_row(const SddmmRun& run, std::int64_t row) {
  if (row >= run.panel.rows) return;
  const std::uint32_t count = run.panel.begin[row + 1] - run.panel.begin[row];
  if (count == 0) return;
  const float* const out = run.out + run.packed[row];
  __builtin_prefetch(out, 1);
  __builtin_prefetch(out + (count - 1), 1);
}

// The last weights of a row, fewer than eight: a loop of their own for each number.
template <int kCount, std::int64_t kWidth, int kTiles>
[[gnu::always_inline]] inline void dot_rest(const SddmmRun& run, const GradientRow<kWidth, kTiles>& dy,
                                            const std::uint16_t* cols, std::uint32_t count, float* out) {
  if constexpr (kCount > 0) {
    if (count == kCount) return dot<kCount>(run, dy, cols, out);
    dot_rest<kCount - 1>(run, dy, cols, count, out);
  }
}

template <std::int64_t kWidth, int kTiles>
void sddmm_rows(const SddmmRun& of) {
  const SddmmRun run = of;  // a copy: what is stored could be `of` for all that the compiler knows
  for (std::int64_t row = 0; row < run.panel.rows; ++row) {
    prefetch_row(run, row + 8);
    std::uint32_t left = run.panel.begin[row + 1] - run.panel.begin[row];
    if (left == 0) continue;
    const GradientRow<kWidth, kTiles> dy(run, row);
    const std::uint16_t* cols = run.panel.cols + run.panel.begin[row];
    float* out = run.out + run.packed[row];
    for (; left >= 8; left -= 8, cols += 8, out += 8) dot<8>(run, dy, cols, out);
    dot_rest<7>(run, dy, cols, left, out);
  }
}

// Eight sums and two tiles of 128 tokens are 24 registers; other instruction sets have sixteen.
template <std::int64_t kWidth>
void sddmm_tiles(const SddmmRun& run) {
  if constexpr (kLanes == 16) {
    if (run.tiles == 1) return sddmm_rows<kWidth, 1>(run);
    if (run.tiles == 2) return sddmm_rows<kWidth, 2>(run);
  }
  sddmm_rows<kWidth, 0>(run);
}

// Every width that tile_shape gives has a loop of its own.
void sddmm(const SddmmRun& run) {
  switch (run.width) {
    case 128:
      return sddmm_tiles<128>(run);
    case 64:
      return sddmm_tiles<64>(run);
    case 32:
      return sddmm_tiles<32>(run);
    default:
      return sddmm_tiles<16>(run);
  }
}

}  // namespace

extern const TileProducts kTileProducts;
const TileProducts kTileProducts = {kLanes, {spmm<16>, spmm<32>, spmm<64>, spmm<128>}, sddmm};

}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
