// SPDX-License-Identifier: BSD-3-Clause
// The layers that every kernel is tested on, and what the tests share: exact-size buffers, executors on 1, 2
// and 7 threads, and a loop over every instruction set of the machine.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/expand.h"
#include "kernels/isa.h"
#include "kernels/philox.h"
#include "tests/cpp/workers.h"

namespace smet::test {

using kernels::DType;
using kernels::Isa;
using kernels::Pattern;
using kernels::Status;
using kernels::Tile;

struct Problem {
  const char* name;
  std::int64_t rows, cols;
  double density;
  bool empty_rows = false;  // every other row has no active weight
};

// Add a row and every kernel's test runs on it.
inline const std::vector<Problem>& problems() {
  static const std::vector<Problem> table = {
      {"no rows", 0, 64, .5},
      {"no columns", 4, 0, .5},
      {"one weight", 1, 1, 1},
      {"empty pattern", 5, 70, 0},
      {"1 x N", 1, 4099, .25},
      {"N x 1", 4099, 1, .5},
      {"primes", 37, 1031, .25},
      {"ragged", 13, 1000, .25},
      {"aligned", 48, 2048, .25},
      {"wide", 3, 100000, .1},
      {"tall", 2000, 33, .2},
      {"density .001", 50, 3001, .001},
      {"density .5", 61, 1500, .5},
      {"density .97", 31, 1025, .97},
      {"dense", 17, 1057, 1},
      {"dense, whole words", 9, 2048, 1},
      {"empty rows", 29, 1100, .3, true},
  };
  return table;
}

// Memory of exactly the size asked for, so that the address sanitizer sees the first byte beyond it.
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::int64_t size) : size_(size), data_(new T[static_cast<std::size_t>(size)]()) {}
  Buffer(const Buffer& other) : Buffer(other.size_) { std::copy(other.begin(), other.end(), begin()); }
  Buffer(Buffer&&) noexcept = default;
  Buffer& operator=(const Buffer&) = delete;
  Buffer& operator=(Buffer&&) noexcept = default;
  ~Buffer() = default;

  std::int64_t size() const { return size_; }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  T& operator[](std::int64_t i) { return data_[static_cast<std::size_t>(i)]; }
  const T& operator[](std::int64_t i) const { return data_[static_cast<std::size_t>(i)]; }

 private:
  std::int64_t size_;
  std::unique_ptr<T[]> data_;
};

using Bytes = Buffer<unsigned char>;

// Whether two buffers hold the same bytes, and where they first differ.
template <typename T>
testing::AssertionResult same_bytes(const Buffer<T>& got, const Buffer<T>& want) {
  if (got.size() != want.size()) {
    return testing::AssertionFailure() << got.size() << " elements, expected " << want.size();
  }
  for (std::int64_t i = 0; i < got.size(); ++i) {
    if (std::memcmp(&got[i], &want[i], sizeof(T)) != 0) {
      return testing::AssertionFailure()
             << "element " << i << " of " << got.size() << " is " << +got[i] << ", expected " << +want[i];
    }
  }
  return testing::AssertionSuccess();
}

// Deterministic noise: mix64 of a counter.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(kernels::mix64(seed + 0x9E3779B97F4A7C15ULL)) {}
  std::uint64_t bits() { return kernels::mix64(state_ += 0x9E3779B97F4A7C15ULL); }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  // Roughly normal: the sum of twelve uniforms.
  double normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
  std::int64_t below(std::int64_t end) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(end));
  }

 private:
  std::uint64_t state_;
};

// A mask and what is derived from it, obviously.
struct Topology {
  std::int64_t rows, cols;
  Buffer<std::uint32_t> mask;
  Buffer<std::int32_t> rank;
  std::int64_t nnz = 0;

  Topology(std::int64_t rows_, std::int64_t cols_)
      : rows(rows_),
        cols(cols_),
        mask(rows_ * kernels::words_per_row(cols_)),
        rank(rows_ * kernels::segments_per_row(cols_)) {}

  bool active(std::int64_t row, std::int64_t col) const {
    return (mask[row * kernels::words_per_row(cols) + col / 32] >> (col % 32) & 1U) != 0;
  }
  void activate(std::int64_t row, std::int64_t col) {
    mask[row * kernels::words_per_row(cols) + col / 32] |= 1U << (col % 32);
  }
  void derive() {
    nnz = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t col = 0; col < cols; ++col) {
        if (col % 1024 == 0) {
          rank[row * kernels::segments_per_row(cols) + col / 1024] = static_cast<std::int32_t>(nnz);
        }
        nnz += static_cast<int>(active(row, col));
      }
    }
  }
  Pattern pattern() const { return {mask.data(), rank.data(), rows, cols, nnz}; }
};

inline Topology make_topology(const Problem& problem, std::uint64_t seed = 1) {
  Topology topology(problem.rows, problem.cols);
  Random random(seed);
  for (std::int64_t row = 0; row < problem.rows; ++row) {
    for (std::int64_t col = 0; col < problem.cols; ++col) {
      const bool active = random.uniform() < problem.density;
      if (active && !(problem.empty_rows && row % 2 == 0)) topology.activate(row, col);
    }
  }
  topology.derive();
  return topology;
}

// The whole layer, a band of rows, one segment, and everything from a segment on to the ragged edge.
inline std::vector<Tile> tiles(const Problem& problem) {
  const std::int64_t rows = problem.rows;
  const std::int64_t cols = problem.cols;
  std::vector<Tile> result = {
      {0, rows, 0, cols}, {rows / 3, rows - rows / 4, 0, cols}, {rows / 2, rows / 2, 0, cols}};
  if (cols > 1024) {
    result.push_back({0, rows, 0, 1024});
    result.push_back({rows / 4, rows, cols / 2048 * 1024, cols});
    result.push_back({0, rows - rows / 2, (cols - 1) / 1024 * 1024, cols});
  }
  return result;
}

inline Executor serial() {
  return {[](std::int64_t chunks, Executor::Body body, void* context) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
  }};
}

// As serial(), the last chunk first: what a chunk takes from one before it differs.
inline Executor backwards() {
  return {[](std::int64_t chunks, Executor::Body body, void* context) {
    for (std::int64_t chunk = chunks; chunk-- > 0;) body(context, chunk);
  }};
}

// Calls test(executor) on every instruction set of this machine with one thread and on the default one with
// 2 and 7 too (T8) and backwards; leaves the default one in use.
template <typename F>
void for_each_variant(F&& test) {
  const std::string chosen = kernels::active_isa();
  for (const Isa isa : {Isa::baseline, Isa::avx512, Isa::avx2}) {
    if (kernels::use_isa(isa) != Status::ok) continue;
    SCOPED_TRACE(std::string("isa ") + kernels::active_isa());
    test(serial());
  }
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (kernels::use_isa(isa) == Status::ok && chosen == kernels::active_isa()) break;
  }
  const Executor executors[] = {executor_of<1>(), executor_of<2>(), executor_of<7>()};
  const int threads[] = {1, 2, 7};
  for (int i = 0; i < 3; ++i) {
    SCOPED_TRACE("threads " + std::to_string(threads[i]));
    test(executors[i]);
  }
  SCOPED_TRACE("backwards");
  test(backwards());
}

// The same for every problem of the table: test(problem).
template <typename F>
void for_each_problem(F&& test) {
  for (const Problem& problem : problems()) {
    SCOPED_TRACE(std::string("problem: ") + problem.name);
    test(problem);
  }
}

inline const std::vector<DType>& dtypes() {
  static const std::vector<DType> all = {DType::f32, DType::f64, DType::bf16, DType::f16};
  return all;
}

inline const char* name(DType dtype) {
  const char* names[] = {"f32", "f64", "bf16", "f16"};
  return names[static_cast<int>(dtype)];
}

}  // namespace smet::test
