// SPDX-License-Identifier: BSD-3-Clause
// The value of each warp collective.
#include <algorithm>
#include <bit>

#include "block.h"

namespace gpusim {
namespace {

bool in(unsigned members, int lane) {
  return (members >> lane & 1U) != 0;
}

unsigned combine(Op op, unsigned a, unsigned b) {
  switch (op) {
    case Op::add:
      return a + b;
    case Op::min_signed:
      return static_cast<unsigned>(std::min(static_cast<int>(a), static_cast<int>(b)));
    case Op::max_signed:
      return static_cast<unsigned>(std::max(static_cast<int>(a), static_cast<int>(b)));
    case Op::min_unsigned:
      return std::min(a, b);
    case Op::max_unsigned:
      return std::max(a, b);
    case Op::bit_and:
      return a & b;
    case Op::bit_or:
      return a | b;
    default:
      return a ^ b;
  }
}

unsigned reduction(const Warp& warp, unsigned members, Op op) {
  int lane = std::countr_zero(members);
  auto total = static_cast<unsigned>(warp.threads[lane].value);
  while (++lane < kWarpThreads) {
    if (in(members, lane)) total = combine(op, total, static_cast<unsigned>(warp.threads[lane].value));
  }
  return total;
}

// Lanes of `members` for which match(thread) holds.
template <typename Match>
unsigned lanes(const Warp& warp, unsigned members, const Match& match) {
  unsigned found = 0;
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    if (in(members, lane) && match(warp.threads[lane])) found |= 1U << lane;
  }
  return found;
}

// CUDA's rules: a source outside the lane's group of `width` is the lane itself.
int shuffle_source(const Thread& thread) {
  const int first = thread.lane & ~(thread.width - 1);
  const int last = first + thread.width - 1;
  int source = thread.lane;
  switch (thread.op) {
    case Op::shuffle:
      return first + (thread.argument & (thread.width - 1));
    case Op::shuffle_up:
      source = thread.lane - thread.argument;
      return source < first ? thread.lane : source;
    case Op::shuffle_down:
      source = thread.lane + thread.argument;
      return source > last ? thread.lane : source;
    default:
      source = thread.lane ^ thread.argument;
      return source > last ? thread.lane : source;
  }
}

}  // namespace

bool collective_result(const Warp& warp, unsigned members, int lane, std::uint64_t& result) {
  const Thread& thread = warp.threads[lane];
  const auto yes = [](const Thread& other) { return other.value != 0; };
  switch (thread.op) {
    case Op::sync:
      result = 0;
      return true;
    case Op::shuffle:
    case Op::shuffle_up:
    case Op::shuffle_down:
    case Op::shuffle_xor: {
      const int source = shuffle_source(thread);
      if (source < 0 || source >= kWarpThreads || !in(members, source)) return false;
      result = warp.threads[source].value;
      return true;
    }
    case Op::ballot:
      result = lanes(warp, members, yes);
      return true;
    case Op::any:
      result = lanes(warp, members, yes) != 0 ? 1 : 0;
      return true;
    case Op::all:
      result = lanes(warp, members, yes) == members ? 1 : 0;
      return true;
    case Op::match_any:
      result = lanes(warp, members, [&](const Thread& other) { return other.value == thread.value; });
      return true;
    default:
      result = reduction(warp, members, thread.op);
      return true;
  }
}

}  // namespace gpusim
