// SPDX-License-Identifier: BSD-3-Clause
// Runs the seeded kernels on data that shows their bugs, and says what was found.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <numeric>
#include <string>
#include <vector>

#include "seeded_bugs.cuh"

namespace seeded {

// What the schedules find: the runtime's error, "wrong values", or "" for nothing.
template <typename Body>
std::string finding(const Body& body) {
  for (const gpusim::Options& options : gpusim::all_schedules()) {
    const gpusim::With with(options);
    try {
      if (!body()) return "wrong values [schedule " + gpusim::name(options.schedule) + "]";
    } catch (const gpusim::Error& error) {
      return error.what();
    }
  }
  return "";
}

inline void expect_found(const std::string& found, const std::string& want) {
  EXPECT_NE(found.find(want), std::string::npos) << "expected '" << want << "', found '" << found << "'";
}

// Every third column of the first row, every second of the next, all of the third; 300 columns: a ragged
// tail.
struct Layer {
  int rows = 3;
  int cols = 300;
  std::vector<unsigned> mask;
  std::vector<int> rank;
  std::vector<std::pair<int, int>> positions;

  explicit Layer(int columns = 300) : cols(columns) {
    const auto words = static_cast<std::size_t>((cols + 31) / 32);
    mask.resize(static_cast<std::size_t>(rows) * words);
    for (int r = 0; r < rows; ++r) {
      rank.push_back(static_cast<int>(positions.size()));
      for (int c = 0; c < cols; c += 3 - r) {
        mask[static_cast<std::size_t>(r) * words + static_cast<std::size_t>(c / 32)] |= 1U << (c % 32);
        positions.emplace_back(r, c);
      }
    }
  }
  gpusim::Shape shape() const { return {.grid = {static_cast<unsigned>(rows)}, .block = {32}}; }
  template <typename T>
  std::vector<T> values() const {
    std::vector<T> v(positions.size());
    std::iota(v.begin(), v.end(), T{1});
    return v;
  }
};

// Into rows `stride` apart, from element `offset` of an exactly sized buffer on.
template <typename T, Bug bug>
std::string run_unpack(const Layer& layer, std::int64_t stride, std::size_t offset = 0) {
  const std::vector<T> values = layer.values<T>();
  return finding([&] {
    const auto size = static_cast<std::size_t>((layer.rows - 1) * stride + layer.cols);
    std::vector<T> dense(offset + size, T{7});
    gpusim::launch(layer.shape(), unpack<T, bug>, values.data(), layer.mask.data(), layer.rank.data(),
                   layer.cols, stride, dense.data() + offset);
    std::vector<T> want(offset + size, T{7});
    for (int r = 0; r < layer.rows; ++r) {
      std::fill_n(want.begin() + static_cast<std::ptrdiff_t>(offset) + r * stride, layer.cols, T{0});
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto [r, c] = layer.positions[i];
      want[offset + static_cast<std::size_t>(r * stride + c)] = values[i];
    }
    return dense == want;
  });
}

// Rows 2^30 elements apart: address space, not memory.
template <Bug bug>
std::string run_unpack_far() {
  const Layer layer;
  const std::vector<std::uint16_t> values = layer.values<std::uint16_t>();
  constexpr std::int64_t kStride = std::int64_t{1} << 30;
  constexpr std::size_t kBytes = (3 * kStride + 1024) * sizeof(std::uint16_t);
  return finding([&] {
    void* pages =
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    auto* dense = static_cast<std::uint16_t*>(pages);
    gpusim::launch(layer.shape(), unpack<std::uint16_t, bug>, values.data(), layer.mask.data(),
                   layer.rank.data(), layer.cols, kStride, dense);
    bool right = true;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto [r, c] = layer.positions[i];
      right = right && dense[r * kStride + c] == values[i];
    }
    munmap(pages, kBytes);
    return right;
  });
}

template <Bug bug>
std::string run_pack() {
  const Layer layer;
  std::vector<float> dense(static_cast<std::size_t>(layer.rows * layer.cols));
  std::iota(dense.begin(), dense.end(), 1.0F);
  const std::vector<float> scale(32, 0.5F);
  return finding([&] {
    std::vector<float> values(layer.positions.size(), 100);
    gpusim::Shape shape = layer.shape();
    shape.shared_bytes = scale.size() * sizeof(float) - (bug == Bug::dynamic_shared_overflow ? 4 : 0);
    gpusim::launch(shape, pack<bug>, dense.data(), layer.mask.data(), layer.rank.data(), scale.data(),
                   layer.cols, true, values.data());
    bool right = true;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto [r, c] = layer.positions[i];
      right = right && values[i] == 100 + .5F * dense[static_cast<std::size_t>(r * layer.cols + c)];
    }
    return right;
  });
}

template <Bug bug>
std::string run_sum() {
  std::vector<int> x(5 * 96 - 32);
  std::iota(x.begin(), x.end(), -100);
  return finding([&] {
    int total = 3;
    gpusim::launch({.grid = {5}, .block = {96}}, sum<bug>, x.data(), static_cast<int>(x.size()), &total);
    return total == std::accumulate(x.begin(), x.end(), 3);
  });
}

}  // namespace seeded
