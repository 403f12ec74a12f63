// SPDX-License-Identifier: BSD-3-Clause
// What the tests of the CUDA kernels run on: gpusim, under its schedules, with every device buffer an
// exact-size piece of the heap; or, built with SMET_TEST_ON_GPU, a real device.
#pragma once

#ifdef SMET_TEST_ON_GPU
#include <cuda_runtime.h>

#include <utility>
#else
#include "gpusim.h"
#endif

#include "tests/cpp/numbers.h"

namespace smet::test {

// The stream that launchers are given, and the schedules that they run under.
#ifdef SMET_TEST_ON_GPU
inline kernels::cuda::Stream stream() {
  return cudaStreamPerThread;
}
inline void wait() {
  const cudaError_t error = cudaStreamSynchronize(stream());
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}
template <typename F>
void for_each_schedule(F&& body) {
  body();
}
template <typename F>
void on_next_schedule(F&& body) {
  body();
}
#else
inline kernels::cuda::Stream stream() {
  return gpusim::stream();
}
template <typename F>
void for_each_schedule(F&& body) {
  for (const gpusim::Options& options : gpusim::all_schedules()) {
    SCOPED_TRACE("schedule: " + gpusim::name(options.schedule));
    const gpusim::With with(options);
    body();
  }
}
// One schedule, another at every call: where a sweep over shapes and dtypes would take too long under all.
template <typename F>
void on_next_schedule(F&& body) {
  static std::size_t next = 0;
  const std::vector<gpusim::Options> all = gpusim::all_schedules();
  const gpusim::Options options = all[next++ % all.size()];
  SCOPED_TRACE("schedule: " + gpusim::name(options.schedule));
  const gpusim::With with(options);
  body();
}
#endif

// A copy of a buffer in device memory, `offset` elements beyond an address aligned for every vector.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const Buffer<T>& host, std::int64_t offset = 0)
      : size_(host.size()), offset_(offset), memory_(host.size() + offset) {
    memory_.write(offset_, host.data(), size_);
  }
  explicit OnDevice(std::int64_t size) : OnDevice(Buffer<T>(size)) {}

  T* data() { return memory_.data() + offset_; }
  void write(const Buffer<T>& host) { memory_.write(offset_, host.data(), host.size()); }
  Buffer<T> read() const {
    Buffer<T> host(size_);
    memory_.read(offset_, host.data(), size_);
    return host;
  }

 private:
#ifdef SMET_TEST_ON_GPU
  class Memory {
   public:
    explicit Memory(std::int64_t size) {
      const auto bytes = static_cast<std::size_t>(size) * sizeof(T);
      if (cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::size_t>(bytes, 1)) != cudaSuccess) {
        throw std::bad_alloc();
      }
    }
    ~Memory() { cudaFree(data_); }
    Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    T* data() { return data_; }
    void write(std::int64_t at, const T* from, std::int64_t size) {
      cudaMemcpyAsync(data_ + at, from, static_cast<std::size_t>(size) * sizeof(T), cudaMemcpyHostToDevice,
                      stream());
      wait();
    }
    void read(std::int64_t at, T* to, std::int64_t size) const {
      cudaMemcpyAsync(to, data_ + at, static_cast<std::size_t>(size) * sizeof(T), cudaMemcpyDeviceToHost,
                      stream());
      wait();
    }

   private:
    T* data_ = nullptr;
  };
#else
  class Memory {
   public:
    explicit Memory(std::int64_t size) : buffer_(size) {}
    T* data() { return buffer_.data(); }
    void write(std::int64_t at, const T* from, std::int64_t size) { std::copy_n(from, size, data() + at); }
    void read(std::int64_t at, T* to, std::int64_t size) const { std::copy_n(buffer_.data() + at, size, to); }

   private:
    Buffer<T> buffer_;
  };
#endif

  std::int64_t size_, offset_;
  Memory memory_;
};

// Work that was enqueued once, and so done once, and can be done again with the same arguments.
#ifdef SMET_TEST_ON_GPU
class Captured {
 public:
  template <typename F>
  explicit Captured(F&& body) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal));
    body();
    check(cudaStreamEndCapture(stream(), &graph));
    check(cudaGraphInstantiate(&graph_, graph, 0));
    check(cudaGraphDestroy(graph));
    replay();
  }
  ~Captured() { cudaGraphExecDestroy(graph_); }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  void replay() const {
    check(cudaGraphLaunch(graph_, stream()));
    wait();
  }

 private:
  static void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
  }
  cudaGraphExec_t graph_ = nullptr;
};
#else
class Captured {
 public:
  template <typename F>
  explicit Captured(F&& body) {
    body();
    work_.stop();
  }
  void replay() const { work_.replay(); }

 private:
  gpusim::Recording work_;
};
#endif

// Built with the thread sanitizer, under which a layer of thousands of warps takes minutes.
#ifdef __SANITIZE_THREAD__
inline constexpr bool kRaceCheck = true;
#else
inline constexpr bool kRaceCheck = false;
#endif

inline bool few_segments(const Problem& problem) {
  return problem.rows * kernels::segments_per_row(problem.cols) <= 130;
}

// Every problem of the table; in the race check those of few segments, which still are many blocks.
template <typename F>
void for_each_kernel_problem(F&& test) {
  for_each_problem([&](const Problem& problem) {
    if (!kRaceCheck || few_segments(problem)) test(problem);
  });
}

// Alignments of a tile's rows: aligned for vectors, rows of which some are not, a base address that is not.
struct Alignment {
  std::int64_t gap;     // elements between the end of a row and the next one
  std::int64_t offset;  // elements between an aligned address and the base
};
// All of them for a layer of few segments; else, and where time is short, one, another at every call.
inline std::vector<Alignment> alignments(const Problem& problem) {
  static const std::vector<Alignment> all = {{0, 0}, {5, 0}, {0, 1}};
  static std::size_t next = 0;
  if (few_segments(problem) && !kRaceCheck) return all;
  return {all[next++ % all.size()]};
}

// The elements of a tile's memory, which ends with its last one: the gap after the last row does not exist.
inline std::int64_t tile_size(const Tile& tile, std::int64_t stride) {
  const std::int64_t rows = tile.row_end - tile.row_begin;
  return rows == 0 ? 0 : (rows - 1) * stride + tile.col_end - tile.col_begin;
}

// Scratch as a launcher asks for it.
inline OnDevice<unsigned char> scratch_of(std::int64_t bytes) {
  return OnDevice<unsigned char>(untouched(DType::bf16, (bytes + 1) / 2));
}

// A topology in device memory.
struct DeviceTopology {
  OnDevice<std::uint32_t> mask;
  OnDevice<std::int32_t> rank;
  std::int64_t rows, cols, nnz;

  explicit DeviceTopology(const Topology& host)
      : mask(host.mask), rank(host.rank), rows(host.rows), cols(host.cols), nnz(host.nnz) {}
  Pattern pattern() { return {mask.data(), rank.data(), rows, cols, nnz}; }
};

// Whether two buffers hold the same numbers: the same bits, or both NaN, since the NaN that an operation
// makes has other bits on a GPU.
inline testing::AssertionResult same_numbers(DType dtype, const Bytes& got, const Bytes& want) {
  if (got.size() != want.size()) return same_bytes(got, want);
  const std::int64_t bytes = kernels::element_size(dtype);
  for (std::int64_t i = 0; i < got.size() / bytes; ++i) {
    if (std::memcmp(got.data() + i * bytes, want.data() + i * bytes, static_cast<std::size_t>(bytes)) == 0)
      continue;
    const double a = load(got, dtype, i);
    const double b = load(want, dtype, i);
    if (std::isnan(a) && std::isnan(b)) continue;
    return testing::AssertionFailure() << "element " << i << " is " << a << ", expected " << b;
  }
  return testing::AssertionSuccess();
}

}  // namespace smet::test
