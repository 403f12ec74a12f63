// SPDX-License-Identifier: BSD-3-Clause
// Types shared by every kernel: dtype tags, the packed layout, the executor. No torch header is ever included
// below kernels/: a kernel sees raw pointers, sizes and a way to run independent chunks.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

struct CUstream_st;

namespace smet::kernels {

// Element type of a values, gradient or dense buffer. bf16 and fp16 are storage: arithmetic is fp32.
enum class DType : std::uint8_t { f32, f64, bf16, f16 };

// Bytes of one element.
constexpr std::int64_t element_size(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

// What a kernel reports; operators turn it into an exception that names the layer. Kernels never print or
// exit.
enum class Status : std::uint8_t {
  ok,
  unsupported_dtype,  // this combination of dtypes has no instantiation
  out_of_memory,      // scratch could not be allocated; nothing was written
  too_many_active,    // more than 2^31 - 1 active weights in one layer
  unsupported_isa,    // SMET_ISA asks for what this machine lacks: isa_error() of isa.h says what
  invalid_argument,   // a documented precondition does not hold; nothing was written
  launch_failed,      // CUDA refused a launch, of this kernel or of an earlier one
};

// Columns covered by one mask word and by one entry of `rank`.
inline constexpr std::int64_t kWordColumns = 32;
inline constexpr std::int64_t kSegmentColumns = 1024;
inline constexpr std::int64_t kSegmentWords = kSegmentColumns / kWordColumns;

constexpr std::int64_t words_per_row(std::int64_t cols) {
  return (cols + kWordColumns - 1) / kWordColumns;
}
constexpr std::int64_t segments_per_row(std::int64_t cols) {
  return (cols + kSegmentColumns - 1) / kSegmentColumns;
}

// Positions of one layer's active weights, [rows, cols] = [out_features, in_features].
//   mask [rows, words_per_row(cols)]     bit c % 32 of word c / 32 is 1 where (row, c) is active; pad bits
//   are 0 rank [rows, segments_per_row(cols)]  index into `values` of the first active weight of each
//   1,024-column
//                                        segment (of the next active weight where the segment is empty)
// `values` hold the active weights in canonical order: row-major by position.
struct Pattern {
  const std::uint32_t* mask;
  const std::int32_t* rank;
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t nnz;
};

// Runs body(chunk) for every chunk in [0, chunks), in any order, on any number of threads, and returns when
// all are done. What a chunk computes never depends on the number of threads, so results do not either.
// `context` is handed to the body. The operators' executor wraps at::parallel_for; tests bring their own with
// 1, 2 and 7 std::threads.
struct Executor {
  using Body = void (*)(void* context, std::int64_t chunk);
  void (*run)(std::int64_t chunks, Body body, void* context);
  int threads = 1;  // how many scratch areas are worth having; a bound on nothing else
};

// executor.run for a callable: for_chunks(executor, n, [&](std::int64_t chunk) { ... }).
template <typename F>
void for_chunks(const Executor& executor, std::int64_t chunks, F&& body) {
  if (chunks <= 0) return;
  using Callable = std::remove_reference_t<F>;
  executor.run(
      chunks, [](void* context, std::int64_t chunk) { (*static_cast<Callable*>(context))(chunk); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Threads that share `units` pieces of work, each with scratch of its own.
constexpr std::int64_t lane_count(const Executor& executor, std::int64_t units) {
  return units < executor.threads ? units : executor.threads;
}

// body(lane, unit) for every unit in [0, units), each lane taking the next one when it is done: for units
// that differ in cost and need a lane's scratch.
template <typename F>
void for_units(const Executor& executor, std::int64_t units, F&& body) {
  std::atomic<std::int64_t> next{0};
  for_chunks(executor, lane_count(executor, units), [&](std::int64_t lane) {
    for (std::int64_t unit = next++; unit < units; unit = next++) body(lane, unit);
  });
}

// What every CUDA launcher (namespace cuda) shares. It takes a stream, enqueues work on it and returns
// without waiting, so that it may be captured into a CUDA graph. Every data pointer is of device memory,
// results that the other back ends return by value are written there too. What it needs for itself is
// `scratch`, device memory of at least the documented number of bytes, aligned to 16, which the caller keeps
// until the stream has passed the work. Stated errors are found from sizes and dtypes alone, before the first
// launch.
namespace cuda {
using Stream = CUstream_st*;  // cudaStream_t, without a CUDA header
}

}  // namespace smet::kernels
