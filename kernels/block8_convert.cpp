// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <cmath>

#include "kernels/adamw_compact.h"
#include "kernels/block8.h"

namespace smet::kernels {
namespace {

template <typename Body>
void for_each_block(const CompactMoments& moments, std::int64_t size, const Body& body) {
  for (std::int64_t block = 0; block < moments.blocks(); ++block) {
    body(block, moments.block_begin(block, size), moments.block_begin(block + 1, size));
  }
}

// The code whose square is nearest to `magnitude` in units of scale / max_code^2; a tie goes down.
int nearest_code(double magnitude, float scale, int max_code) {
  const auto most = static_cast<double>(max_code * max_code);
  const double units = std::min(magnitude / static_cast<double>(scale) * most, most);
  const int low = static_cast<int>(std::sqrt(units));
  return units - low * low > low + .5 ? low + 1 : low;
}

}  // namespace

bool block8_fits(const CompactMoments& moments, std::int64_t size) {
  if (moments.block_segments < 1) return false;
  if (moments.rank == nullptr) return moments.rows * moments.cols == size;
  const std::int64_t count = moments.rows * segments_per_row(moments.cols);
  if (count == 0) return size == 0;
  bool ascends = moments.rank[0] == 0 && moments.rank[count - 1] <= size;
  for (std::int64_t i = 1; i < count; ++i) ascends &= moments.rank[i - 1] <= moments.rank[i];
  return ascends;
}

void block8_decode(const CompactMoments& moments, std::int64_t size, const std::int8_t* codes_m,
                   const std::uint8_t* codes_v, float* m, float* v) {
  for_each_block(moments, size, [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
    const float unit = block8_unit(moments.scale[block], kBlock8MaxM);
    const float unit_sq = block8_unit(moments.scale_sq[block], kBlock8MaxV);
    for (std::int64_t i = begin; i < end; ++i) {
      m[i] = block8_m(unit, static_cast<std::uint8_t>(codes_m[i]));
      const float root = block8_sqrt_v(unit_sq, codes_v[i]);
      v[i] = root * root;
    }
  });
}

void block8_encode(const CompactMoments& moments, std::int64_t size, const float* m, const float* v,
                   std::int8_t* codes_m, std::uint8_t* codes_v) {
  for_each_block(moments, size, [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
    float scale = 0;
    float scale_sq = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      scale = std::max(scale, std::fabs(m[i]));
      scale_sq = std::max(scale_sq, std::sqrt(v[i]));
    }
    moments.scale[block] = scale;
    moments.scale_sq[block] = scale_sq;
    for (std::int64_t i = begin; i < end; ++i) {
      const int code = scale > 0 ? nearest_code(std::fabs(static_cast<double>(m[i])), scale, kBlock8MaxM) : 0;
      codes_m[i] = static_cast<std::int8_t>(m[i] < 0 ? -code : code);
      const double root = std::sqrt(static_cast<double>(v[i]));
      const int code_sq = scale_sq > 0 ? nearest_code(root, scale_sq, kBlock8MaxV) : 0;
      codes_v[i] = static_cast<std::uint8_t>(v[i] > 0 ? std::max(code_sq, 1) : 0);
    }
  });
}

}  // namespace smet::kernels
