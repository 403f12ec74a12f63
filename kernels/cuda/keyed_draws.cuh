// SPDX-License-Identifier: BSD-3-Clause
// draw_positions: which draws count depends on all earlier ones, yet nobody has to go one by one. While
// `left` positions are wanted, the next `left` draws are certainly needed, whatever they hit: a round makes
// them all at once, in any order, and what they hit for the first time is no longer wanted. Rounds shrink by
// the share of draws that hit; the host launches as many as that share demands, and one block finishes the
// rest.
#pragma once

#include "kernels/cuda/scan.cuh"
#include "kernels/keyed_draws.h"
#include "kernels/philox.h"

namespace smet::kernels::cuda {

inline constexpr int kDrawThreads = 256;
inline constexpr int kFinishThreads = 1024;

// What a round begins with. Round r reads entry r and adds to entry r + 1.
struct DrawRound {
  unsigned long long drawn;   // draws made before
  unsigned long long wanted;  // positions still to be found
};

struct DrawState {
  std::int64_t rows, cols;
  const std::uint32_t* mask;
  std::uint32_t* hit;  // [rows, words_per_row(cols)]
  std::uint64_t key;
  std::uint32_t stream, update;
};

// floor(draw * positions / 2^64) as (word, bit) of the mask.
struct Bit {
  std::int64_t word;
  std::uint32_t bit;
};
__device__ __forceinline__ Bit bit_of(const DrawState& state, std::uint64_t draw) {
  const std::uint64_t position = __umul64hi(draw, static_cast<std::uint64_t>(state.rows * state.cols));
  const std::uint64_t row = position / static_cast<std::uint64_t>(state.cols);
  const std::uint64_t col = position - row * static_cast<std::uint64_t>(state.cols);
  const auto word = static_cast<std::int64_t>(row) * words_per_row(state.cols);
  return {word + static_cast<std::int64_t>(col / kWordColumns), 1U << (col % kWordColumns)};
}

// 1 if the draw hits an inactive position that no draw has hit before.
__device__ __forceinline__ unsigned take(const DrawState& state, std::uint64_t draw) {
  const Bit at = bit_of(state, draw);
  if ((state.mask[at.word] & at.bit) != 0) return 0;
  return (atomicOr(&state.hit[at.word], at.bit) & at.bit) == 0 ? 1 : 0;
}

// Draws [round.drawn, round.drawn + round.wanted), shared among `threads` threads; returns this thread's
// hits. One call of the generator makes two draws.
__device__ __forceinline__ unsigned draw_round(const DrawState& state, const DrawRound& round,
                                               std::uint64_t thread, std::uint64_t threads) {
  const std::uint64_t end = round.drawn + round.wanted;
  unsigned found = 0;
  for (std::uint64_t pair = round.drawn / 2 + thread; 2 * pair < end; pair += threads) {
    const PhiloxCounter words =
        philox4x32_10({static_cast<std::uint32_t>(pair), static_cast<std::uint32_t>(pair >> 32), state.update,
                       state.stream},
                      {static_cast<std::uint32_t>(state.key), static_cast<std::uint32_t>(state.key >> 32)});
    const std::uint64_t even = words[0] | static_cast<std::uint64_t>(words[1]) << 32;
    const std::uint64_t odd = words[2] | static_cast<std::uint64_t>(words[3]) << 32;
    if (2 * pair >= round.drawn) found += take(state, even);
    if (2 * pair + 1 < end) found += take(state, odd);
  }
  return found;
}

// counted += active positions.
static __global__ void __launch_bounds__(kDrawThreads)
    count_active_kernel(const std::uint32_t* mask, std::int64_t words, unsigned long long* counted) {
  SMET_SHARED(unsigned long long, warps, [kDrawThreads / kWarp]);
  unsigned long long count = 0;
  for (std::int64_t word = global_thread(); word < words; word += all_threads()) {
    count += static_cast<unsigned long long>(__popc(mask[word]));
  }
  unsigned long long total;
  block_exclusive_sum<kDrawThreads>(count, warps, &total);
  if (threadIdx.x == 0) atomicAdd(counted, total);
}

// Wants nothing when the caller's count is not the mask's: with too few inactive positions drawing never
// ends.
static __global__ void begin_draws_kernel(const unsigned long long* counted, unsigned long long active,
                                          unsigned long long wanted, DrawRound* first, std::int32_t* fault) {
  const bool agrees = *counted == active;
  first->wanted = agrees ? wanted : 0;
  *fault = agrees ? 0 : 1;
}

static __global__ void __launch_bounds__(kDrawThreads) draw_kernel(const DrawState state, DrawRound* rounds) {
  SMET_SHARED(unsigned, warps, [kDrawThreads / kWarp]);
  const DrawRound round = rounds[0];
  unsigned total;
  block_exclusive_sum<kDrawThreads>(draw_round(state, round, static_cast<std::uint64_t>(global_thread()),
                                               static_cast<std::uint64_t>(all_threads())),
                                    warps, &total);
  if (threadIdx.x != 0) return;
  // The next entry starts as zeros; unsigned sums may pass through "negative" numbers.
  atomicAdd(&rounds[1].wanted, 0ULL - total);
  if (blockIdx.x != 0) return;
  atomicAdd(&rounds[1].wanted, round.wanted);
  atomicAdd(&rounds[1].drawn, round.drawn + round.wanted);
}

// One block: the rounds that are left, however many.
static __global__ void __launch_bounds__(kFinishThreads)
    finish_draws_kernel(const DrawState state, const DrawRound* last) {
  SMET_SHARED(unsigned, warps, [kFinishThreads / kWarp]);
  DrawRound round = *last;
  while (round.wanted > 0) {
    unsigned total;
    block_exclusive_sum<kFinishThreads>(draw_round(state, round, threadIdx.x, kFinishThreads), warps, &total);
    round = {round.drawn + round.wanted, round.wanted - total};
  }
}

// hit becomes the inactive positions that were not hit: the draws were of what is left out. Nothing is left
// out, and nothing chosen, after a fault.
static __global__ void __launch_bounds__(kDrawThreads)
    invert_kernel(const DrawState state, const std::int32_t* fault) {
  const std::int64_t words = words_per_row(state.cols);
  for (std::int64_t word = global_thread(); word < state.rows * words; word += all_threads()) {
    const auto used = static_cast<int>(state.cols - word % words * kWordColumns);
    const std::uint32_t columns = used >= kWordColumns ? ~0U : (1U << used) - 1U;
    state.hit[word] = *fault != 0 ? 0 : columns & ~state.mask[word] & ~state.hit[word];
  }
}

}  // namespace smet::kernels::cuda
