// SPDX-License-Identifier: BSD-3-Clause
// Barriers, shuffles, votes and reductions. Each remembers the line that called it: threads that meet must
// have come from the same one.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

namespace gpusim {

enum class Op : std::uint8_t {
  sync,
  shuffle,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  ballot,
  any,
  all,
  match_any,
  add,
  min_signed,
  max_signed,
  min_unsigned,
  max_unsigned,
  bit_and,
  bit_or,
  bit_xor,
};
enum class Vote : std::uint8_t { none, count, all, any };

using Site = std::source_location;

// Blocks the calling lane until every live lane of `mask` has called with the same op, mask and line; returns
// its result. `argument` and `width` are a shuffle's.
std::uint64_t warp_collective(Op op, unsigned mask, std::uint64_t value, int argument, int width,
                              const Site& site);
int block_barrier(Vote vote, bool predicate, const Site& site);

template <typename T>
std::uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t) && std::is_trivially_copyable_v<T>,
                "at most 8 bytes a lane");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

template <typename T>
T shuffle(Op op, unsigned mask, T value, int argument, int width, const Site& site) {
  return from_bits<T>(warp_collective(op, mask, to_bits(value), argument, width, site));
}

inline unsigned vote(Op op, unsigned mask, bool predicate, const Site& site) {
  return static_cast<unsigned>(warp_collective(op, mask, predicate ? 1 : 0, 0, 32, site));
}

template <typename T>
T reduce(Op op, unsigned mask, T value, const Site& site) {
  return static_cast<T>(
      static_cast<std::uint32_t>(warp_collective(op, mask, static_cast<std::uint32_t>(value), 0, 32, site)));
}

template <typename T>
concept Word = std::same_as<T, int> || std::same_as<T, unsigned>;

}  // namespace gpusim

inline void __syncthreads(const gpusim::Site& site = gpusim::Site::current()) {
  gpusim::block_barrier(gpusim::Vote::none, false, site);
}
inline int __syncthreads_count(int predicate, const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::block_barrier(gpusim::Vote::count, predicate != 0, site);
}
inline int __syncthreads_and(int predicate, const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::block_barrier(gpusim::Vote::all, predicate != 0, site);
}
inline int __syncthreads_or(int predicate, const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::block_barrier(gpusim::Vote::any, predicate != 0, site);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFU, const gpusim::Site& site = gpusim::Site::current()) {
  gpusim::warp_collective(gpusim::Op::sync, mask, 0, 0, 32, site);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::shuffle(gpusim::Op::shuffle, mask, value, lane, width, site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::shuffle(gpusim::Op::shuffle_up, mask, value, static_cast<int>(delta), width, site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::shuffle(gpusim::Op::shuffle_down, mask, value, static_cast<int>(delta), width, site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::shuffle(gpusim::Op::shuffle_xor, mask, value, lane_mask, width, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::vote(gpusim::Op::ballot, mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, const gpusim::Site& site = gpusim::Site::current()) {
  return static_cast<int>(gpusim::vote(gpusim::Op::any, mask, predicate != 0, site));
}
inline int __all_sync(unsigned mask, int predicate, const gpusim::Site& site = gpusim::Site::current()) {
  return static_cast<int>(gpusim::vote(gpusim::Op::all, mask, predicate != 0, site));
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, const gpusim::Site& site = gpusim::Site::current()) {
  const std::uint64_t bits = gpusim::to_bits(value);
  return static_cast<unsigned>(gpusim::warp_collective(gpusim::Op::match_any, mask, bits, 0, 32, site));
}

template <gpusim::Word T>
T __reduce_add_sync(unsigned mask, T value, const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::reduce(gpusim::Op::add, mask, value, site);
}
template <gpusim::Word T>
T __reduce_min_sync(unsigned mask, T value, const gpusim::Site& site = gpusim::Site::current()) {
  constexpr auto op = std::is_signed_v<T> ? gpusim::Op::min_signed : gpusim::Op::min_unsigned;
  return gpusim::reduce(op, mask, value, site);
}
template <gpusim::Word T>
T __reduce_max_sync(unsigned mask, T value, const gpusim::Site& site = gpusim::Site::current()) {
  constexpr auto op = std::is_signed_v<T> ? gpusim::Op::max_signed : gpusim::Op::max_unsigned;
  return gpusim::reduce(op, mask, value, site);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value,
                                  const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::reduce(gpusim::Op::bit_and, mask, value, site);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value,
                                 const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::reduce(gpusim::Op::bit_or, mask, value, site);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value,
                                  const gpusim::Site& site = gpusim::Site::current()) {
  return gpusim::reduce(gpusim::Op::bit_xor, mask, value, site);
}
