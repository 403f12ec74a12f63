// SPDX-License-Identifier: BSD-3-Clause
// One element at a time, whatever the dtype: how the reference kernels read, write and find weights.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/half.h"
#include "kernels/master_weight.h"
#include "kernels/types.h"

namespace smet::kernels::reference {

// The element as a double; exact for every dtype.
inline double load(const void* data, DType dtype, std::int64_t i) {
  switch (dtype) {
    case DType::f64:
      return static_cast<const double*>(data)[i];
    case DType::f32:
      return static_cast<double>(static_cast<const float*>(data)[i]);
    case DType::bf16:
      return static_cast<double>(bf16_to_f32(static_cast<const std::uint16_t*>(data)[i]));
    case DType::f16:
      return static_cast<double>(f16_to_f32(static_cast<const std::uint16_t*>(data)[i]));
  }
  return 0;
}

// Rounds to nearest; 16-bit dtypes through fp32, their compute type.
inline void store(void* data, DType dtype, std::int64_t i, double x) {
  switch (dtype) {
    case DType::f64:
      static_cast<double*>(data)[i] = x;
      break;
    case DType::f32:
      static_cast<float*>(data)[i] = static_cast<float>(x);
      break;
    case DType::bf16:
      static_cast<std::uint16_t*>(data)[i] = f32_to_bf16(static_cast<float>(x));
      break;
    case DType::f16:
      static_cast<std::uint16_t*>(data)[i] = f32_to_f16(static_cast<float>(x));
      break;
  }
}

// A weight with the low half of its master, where there is one: `low` null, load and store.
inline double load_weight(const void* data, const std::int16_t* low, DType dtype, std::int64_t i) {
  if (low == nullptr) return load(data, dtype, i);
  return static_cast<double>(master_weight(static_cast<const std::uint16_t*>(data)[i], low[i]));
}
inline void store_weight(void* data, std::int16_t* low, DType dtype, std::int64_t i, double x) {
  if (low == nullptr) return store(data, dtype, i, x);
  static_cast<std::uint16_t*>(data)[i] = master_high(static_cast<float>(x));
  low[i] = master_low(static_cast<float>(x));
}

// to[j] = from[i]: the same bits, or a 16-bit number widened to fp32, or fp32 rounded to 16 bits.
inline void move(const void* from, DType from_dtype, std::int64_t i, void* to, DType to_dtype,
                 std::int64_t j) {
  if (from_dtype == to_dtype) {
    const std::int64_t bytes = element_size(from_dtype);
    std::memcpy(static_cast<char*>(to) + j * bytes, static_cast<const char*>(from) + i * bytes,
                static_cast<std::size_t>(bytes));
  } else if (to_dtype == DType::f32) {
    const std::uint16_t x = static_cast<const std::uint16_t*>(from)[i];
    static_cast<float*>(to)[j] = from_dtype == DType::bf16 ? bf16_to_f32(x) : f16_to_f32(x);
  } else {
    const float x = static_cast<const float*>(from)[i];
    static_cast<std::uint16_t*>(to)[j] = to_dtype == DType::bf16 ? f32_to_bf16(x) : f32_to_f16(x);
  }
}

inline bool is_16_bit(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f16;
}

// True when a buffer of dtype `packed` may be expanded into, or gathered from, a tile of dtype `dense`.
inline bool convertible(DType packed, DType dense) {
  return packed == dense || (is_16_bit(packed) && dense == DType::f32);
}

// Whether (row, col) is active in a mask of `cols` columns.
inline bool is_active(const std::uint32_t* mask, std::int64_t cols, std::int64_t row, std::int64_t col) {
  const std::uint32_t word = mask[row * words_per_row(cols) + col / kWordColumns];
  return ((word >> (col % kWordColumns)) & 1U) != 0;
}

}  // namespace smet::kernels::reference
