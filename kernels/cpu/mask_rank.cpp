// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/mask_rank.h"

#include <array>
#include <limits>

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/philox.h"

namespace smet::kernels::cpu {

Status mask_rank(const Executor& executor, const MaskRankArgs& args) {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  const auto count_bits = kernels->mask->count_bits;
  const SegmentChunks chunks(args.rows, args.cols);

  // Where each chunk begins in packed order, from the number of weights in each.
  std::array<std::int64_t, SegmentChunks::kMaxChunks + 1> begin{};
  for_chunks(executor, chunks.count(), [&](std::int64_t chunk) {
    const std::int64_t word = chunks.word(chunks.segment(chunk));
    const std::int64_t end = chunks.word(chunks.segment(chunk + 1));
    begin[static_cast<std::size_t>(chunk) + 1] = count_bits(args.mask + word, end - word);
  });
  for (std::size_t chunk = 1; chunk < begin.size(); ++chunk) begin[chunk] += begin[chunk - 1];
  *args.nnz = begin.back();
  if (*args.nnz > std::numeric_limits<std::int32_t>::max()) return Status::too_many_active;

  for_chunks(executor, chunks.count(), [&](std::int64_t chunk) {
    std::int64_t active = begin[static_cast<std::size_t>(chunk)];
    for (std::int64_t segment = chunks.segment(chunk); segment < chunks.segment(chunk + 1); ++segment) {
      args.rank[segment] = static_cast<std::int32_t>(active);
      const std::int64_t word = chunks.word(segment);
      active += count_bits(args.mask + word, chunks.word(segment + 1) - word);
    }
  });
  return Status::ok;
}

std::uint64_t mask_hash(const Executor& executor, const MaskHashArgs& args) {
  const SegmentChunks chunks(args.rows, args.cols);
  std::array<std::uint64_t, SegmentChunks::kMaxChunks> sums{};
  for_chunks(executor, chunks.count(), [&](std::int64_t chunk) {
    std::uint64_t sum = 0;
    const std::int64_t end = chunks.word(chunks.segment(chunk + 1));
    for (std::int64_t word = chunks.word(chunks.segment(chunk)); word < end; ++word) {
      sum += mix64(mix64(static_cast<std::uint64_t>(word)) ^ args.mask[word]);
    }
    sums[static_cast<std::size_t>(chunk)] = sum;
  });
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums) sum += part;
  return mix64(mix64(sum + static_cast<std::uint64_t>(args.rows)) + static_cast<std::uint64_t>(args.cols));
}

}  // namespace smet::kernels::cpu
