// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cuda/mask_rank.cuh"
#include "kernels/mask_rank.h"

namespace smet::kernels::cuda {
namespace {

constexpr std::int64_t kHashBlocks = 256;

std::int64_t total_count(std::int64_t rows, std::int64_t cols) {
  return (rows * segments_per_row(cols) + kScanThreads - 1) / kScanThreads;
}

}  // namespace

std::int64_t mask_rank_scratch(std::int64_t rows, std::int64_t cols) {
  return total_count(rows, cols) * static_cast<std::int64_t>(sizeof(std::int64_t));
}

Status mask_rank(Stream stream, const MaskRankArgs& args, void* scratch) {
  const std::int64_t segments = args.rows * segments_per_row(args.cols);
  const std::int64_t blocks = total_count(args.rows, args.cols);
  auto* totals = static_cast<std::int64_t*>(scratch);
  const Tile layer = {0, args.rows, 0, args.cols};
  const auto grid = static_cast<unsigned>(blocks);
  Launches launches(stream);
  launches(grid, kScanThreads, count_segments_kernel, layer, args.mask, segments, args.rank, totals);
  launches(1, kScanThreads, scan_totals_kernel, totals, blocks, args.nnz);
  launches(grid, kScanThreads, add_totals_kernel, args.rank, segments, totals);
  return launches.status();
}

std::int64_t mask_hash_scratch() {
  return kHashBlocks * static_cast<std::int64_t>(sizeof(std::uint64_t));
}

Status mask_hash(Stream stream, const MaskHashArgs& args, std::uint64_t* hash, void* scratch) {
  const std::int64_t words = args.rows * words_per_row(args.cols);
  const std::int64_t blocks = std::min((words + kScanThreads - 1) / kScanThreads, kHashBlocks);
  auto* sums = static_cast<std::uint64_t*>(scratch);
  Launches launches(stream);
  launches(static_cast<unsigned>(blocks), kScanThreads, hash_words_kernel, args.mask, words, sums);
  launches(1, kScanThreads, finish_hash_kernel, sums, static_cast<int>(blocks), args.rows, args.cols, hash);
  return launches.status();
}

Status has_pad_bits(Stream stream, const MaskHashArgs& args, std::int32_t* found) {
  return launch(stream, 1, kScanThreads, pad_bits_kernel, args.mask, args.rows, args.cols, found);
}

}  // namespace smet::kernels::cuda
