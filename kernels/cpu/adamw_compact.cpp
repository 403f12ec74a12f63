// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/adamw_compact.h"

#include <new>

#include "kernels/cpu/adamw_chunks.h"

namespace smet::kernels::cpu {
namespace {

constexpr std::int64_t kMaxBlocks = 256;  // of a chunk

Status check(const AdamWTensor& tensor, const CompactMoments& moments) {
  if (tensor.param_dtype == DType::f64) return Status::unsupported_dtype;
  const Status status = check_tensor(tensor);
  if (status != Status::ok || moments.format == MomentFormat::bf16) return status;
  return block8_fits(moments, tensor.size) ? Status::ok : Status::invalid_argument;
}

// Blocks that hold about as many weights as a chunk does otherwise.
std::int64_t blocks_per_chunk(const AdamWTensor& tensor, const CompactMoments& moments) {
  if (tensor.size == 0) return kMaxBlocks;
  return std::clamp<std::int64_t>(kChunk * moments.blocks() / tensor.size, 1, kMaxBlocks);
}

std::int64_t chunks_of(const AdamWTensor& tensor, const CompactMoments& moments) {
  if (moments.format == MomentFormat::bf16) return chunks_of_size(tensor.size);
  const std::int64_t together = blocks_per_chunk(tensor, moments);
  return (moments.blocks() + together - 1) / together;
}

void run_blocks(const AdamWTensor& tensor, const CompactMoments& moments, std::int64_t chunk,
                void (*inner)(const Block8Chunk&)) {
  const std::int64_t together = blocks_per_chunk(tensor, moments);
  const std::int64_t first = chunk * together;
  const std::int64_t blocks = std::min(together, moments.blocks() - first);
  std::array<std::int64_t, kMaxBlocks + 1> begins;
  const std::int64_t begin = moments.block_begin(first, tensor.size);
  for (std::int64_t block = 0; block <= blocks; ++block) {
    begins[static_cast<std::size_t>(block)] = moments.block_begin(first + block, tensor.size) - begin;
  }
  const std::int64_t end = begin + begins[static_cast<std::size_t>(blocks)];
  run_chunk<float>(tensor, begin, end, 1, moments.key, [&](const AdamWChunk& weights) {
    inner({weights, begins.data(), blocks, moments.scale + first, moments.scale_sq + first});
  });
}

}  // namespace

Status adamw_compact(const Executor& executor, const AdamWCompactArgs& args) try {
  const IsaKernels* kernels = isa_kernels();
  if (kernels == nullptr) return Status::unsupported_isa;
  for (std::int64_t t = 0; t < args.count; ++t) {
    const Status status = check(args.tensors[t], args.moments[t]);
    if (status != Status::ok) return status;
  }
  const FlatChunks chunks(args.count,
                          [&](std::int64_t t) { return chunks_of(args.tensors[t], args.moments[t]); });
  for_chunks(executor, chunks.count(), [&](std::int64_t flat) {
    const auto [t, chunk] = chunks[flat];
    const AdamWTensor& tensor = args.tensors[t];
    const CompactMoments& moments = args.moments[t];
    const auto dtype = static_cast<int>(tensor.param_dtype);
    if (moments.format == MomentFormat::bf16) {
      run_chunk<float>(tensor, chunk, sizeof(std::uint16_t), moments.key,
                       kernels->adamw_compact->bf16[dtype]);
    } else {
      run_blocks(tensor, moments, chunk, kernels->adamw_compact->block8[dtype]);
    }
  });
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::out_of_memory;
}

}  // namespace smet::kernels::cpu
