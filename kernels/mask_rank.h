// SPDX-License-Identifier: BSD-3-Clause
// mask_rank: derive `rank` from `mask`; mask_hash: one number that says whether two topologies are equal.
#pragma once

#include "kernels/types.h"

namespace smet::kernels {

// rank[r][s] = number of active positions before column 1024 s of row r, in row-major order. *nnz = all of
// them. too_many_active when they pass 2^31 - 1 (rank is then unspecified).
struct MaskRankArgs {
  const std::uint32_t* mask;  // [rows, words_per_row(cols)]
  std::int32_t* rank;         // [rows, segments_per_row(cols)]
  std::int64_t rows, cols;
  std::int64_t* nnz;
};

// True when a bit at or beyond column `cols` is set in any row: such a mask is malformed.
bool has_pad_bits(const std::uint32_t* mask, std::int64_t rows, std::int64_t cols);

// 64-bit hash of (rows, cols, positions): the sum modulo 2^64 of mix64(mix64(word index) ^ word) over all
// words, finished as mix64(mix64(sum + rows) + cols); so it is independent of the order of evaluation. mix64
// is the finaliser of splitmix64 (philox.h).
struct MaskHashArgs {
  const std::uint32_t* mask;
  std::int64_t rows, cols;
};

namespace reference {
Status mask_rank(const Executor& executor, const MaskRankArgs& args);
std::uint64_t mask_hash(const Executor& executor, const MaskHashArgs& args);
}  // namespace reference
namespace cpu {
Status mask_rank(const Executor& executor, const MaskRankArgs& args);
std::uint64_t mask_hash(const Executor& executor, const MaskHashArgs& args);
}  // namespace cpu
namespace cuda {
// *nnz is written on the device: a caller that must refuse more than 2^31 - 1 reads it there, since this
// never returns too_many_active.
std::int64_t mask_rank_scratch(std::int64_t rows, std::int64_t cols);
Status mask_rank(Stream stream, const MaskRankArgs& args, void* scratch);
std::int64_t mask_hash_scratch();
Status mask_hash(Stream stream, const MaskHashArgs& args, std::uint64_t* hash, void* scratch);
// *found = 1 if has_pad_bits, else 0.
Status has_pad_bits(Stream stream, const MaskHashArgs& args, std::int32_t* found);
}  // namespace cuda

}  // namespace smet::kernels
