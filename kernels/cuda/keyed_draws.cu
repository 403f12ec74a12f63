// SPDX-License-Identifier: BSD-3-Clause
#include <cmath>

#include "kernels/cuda/keyed_draws.cuh"
#include "kernels/keyed_draws.h"

namespace smet::kernels::cuda {
namespace {

constexpr int kMostRounds = 4096;
// Few enough for one block to finish alone, in the time of a few launches.
constexpr double kFinish = 16.0 * kFinishThreads;

// How many rounds leave about kFinish positions of `wanted`. At least `share` of the draws hit something new.
int rounds_for(std::int64_t wanted, double share) {
  const double surplus = static_cast<double>(wanted) / kFinish;
  if (surplus <= 1) return 0;
  return static_cast<int>(std::min<double>(kMostRounds, std::ceil(std::log(surplus) / -std::log1p(-share))));
}

// Device memory: the count of active positions, then the rounds.
constexpr std::int64_t kCountBytes = 16;

}  // namespace

std::int64_t draw_positions_scratch() {
  return kCountBytes + (kMostRounds + 1) * static_cast<std::int64_t>(sizeof(DrawRound));
}

Status draw_positions(Stream stream, const DrawPositionsArgs& args, std::int32_t* fault, void* scratch) {
  const std::int64_t positions = args.rows * args.cols;
  const std::int64_t words = args.rows * words_per_row(args.cols);
  if (args.inactive < 0 || args.inactive > positions || args.k < 0 || args.k > args.inactive) {
    return Status::invalid_argument;
  }
  const bool draw_left_out = args.k > args.inactive / 2;
  const std::int64_t wanted = draw_left_out ? args.inactive - args.k : args.k;
  // Even the last draw hits with the share of what is then still inactive and unhit, at least half.
  const double share =
      static_cast<double>(args.inactive - wanted) / static_cast<double>(std::max<std::int64_t>(positions, 1));
  const int rounds = rounds_for(wanted, share);

  auto* counted = static_cast<unsigned long long*>(scratch);
  auto* round = reinterpret_cast<DrawRound*>(static_cast<char*>(scratch) + kCountBytes);
  const auto bytes =
      static_cast<std::size_t>(kCountBytes) + static_cast<std::size_t>(rounds + 1) * sizeof(DrawRound);
  if (cudaMemsetAsync(scratch, 0, bytes, stream) != cudaSuccess ||
      cudaMemsetAsync(args.chosen, 0, static_cast<std::size_t>(words) * sizeof(std::uint32_t), stream) !=
          cudaSuccess) {
    return Status::launch_failed;
  }
  const DrawState state = {args.rows,   args.cols, args.mask,
                           args.chosen, args.key,  static_cast<std::uint32_t>(args.stream),
                           args.update};
  Launches launches(stream);
  launches(striding_blocks(words, kDrawThreads), kDrawThreads, count_active_kernel, args.mask, words,
           counted);
  launches(1, 1, begin_draws_kernel, counted, static_cast<unsigned long long>(positions - args.inactive),
           static_cast<unsigned long long>(wanted), round, fault);
  for (int r = 0; r < rounds; ++r, ++round) {
    launches(striding_blocks(wanted / 2 + 1, kDrawThreads), kDrawThreads, draw_kernel, state, round);
  }
  launches(1, kFinishThreads, finish_draws_kernel, state, round);
  if (draw_left_out) {
    launches(striding_blocks(words, kDrawThreads), kDrawThreads, invert_kernel, state, fault);
  }
  return launches.status();
}

}  // namespace smet::kernels::cuda
