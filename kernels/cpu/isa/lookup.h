// SPDX-License-Identifier: BSD-3-Clause
// Shuffle tables from eight mask bits to eight lanes, and the few bit operations that every inner loop uses.
// Only for kernels/cpu/isa: everything is in an unnamed namespace (see isa_kernels.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace smet::kernels::cpu::SMET_ISA_NAMESPACE {
namespace {

inline constexpr std::int64_t kWordBits = 32;

inline std::int64_t count_word(std::uint32_t word) {
#ifdef __POPCNT__
  return __builtin_popcount(word);
#else  // without the instruction the builtin is a call
  word -= (word >> 1) & 0x55555555U;
  word = (word & 0x33333333U) + ((word >> 2) & 0x33333333U);
  return (((word + (word >> 4)) & 0x0F0F0F0FU) * 0x01010101U) >> 24;
#endif
}

inline std::int64_t lowest_bit(std::uint32_t word) {
  return __builtin_ctz(word);
}

#ifdef __AVX2__

// expand[m]: lane b gets the number of bits of m below b where bit b is set, else 0x80, which pshufb turns
// into zero and blendv into the other operand. compress[m]: lane j gets the place of the j-th set bit, and
// 0x80 beyond the last. The 16-bit tables hold byte pairs, for pshufb on eight 16-bit lanes.
struct Lookup {
  alignas(64) std::uint8_t expand[256][8];
  alignas(64) std::uint8_t compress[256][8];
  alignas(64) std::uint8_t expand16[256][16];
  alignas(64) std::uint8_t compress16[256][16];
};

constexpr Lookup make_lookup() {
  Lookup lookup{};
  for (std::size_t mask = 0; mask < 256; ++mask) {
    for (std::size_t lane = 0; lane < 8; ++lane)
      lookup.expand[mask][lane] = lookup.compress[mask][lane] = 0x80;
    unsigned count = 0;
    for (unsigned bit = 0; bit < 8; ++bit) {
      if ((mask >> bit & 1U) == 0) continue;
      lookup.expand[mask][bit] = static_cast<std::uint8_t>(count);
      lookup.compress[mask][count] = static_cast<std::uint8_t>(bit);
      ++count;
    }
    for (std::size_t lane = 0; lane < 8; ++lane) {
      const auto pair = [](std::uint8_t from, std::uint8_t* to) {
        to[0] = from == 0x80 ? from : static_cast<std::uint8_t>(2 * from);
        to[1] = from == 0x80 ? from : static_cast<std::uint8_t>(2 * from + 1);
      };
      pair(lookup.expand[mask][lane], &lookup.expand16[mask][2 * lane]);
      pair(lookup.compress[mask][lane], &lookup.compress16[mask][2 * lane]);
    }
  }
  return lookup;
}

constexpr Lookup kLookup = make_lookup();

#endif

}  // namespace
}  // namespace smet::kernels::cpu::SMET_ISA_NAMESPACE
