// SPDX-License-Identifier: BSD-3-Clause
// Memory of one kernel call, kept for the next one: a layer's scratch is tens of MB, and pages fresh from the
// system cost as much as a sparse product.
#pragma once

#include <cstddef>
#include <cstdint>

namespace smet::kernels::cpu {

// Blocks that this thread's calls have used and freed, smallest first that fits. A thread keeps at most
// kKeptBytes of them.
inline constexpr std::size_t kKeptBytes = std::size_t{256} << 20;
void* take_scratch(std::size_t bytes);  // aligned to 64 bytes; throws std::bad_alloc
void give_scratch(void* data) noexcept;

// Uninitialised memory for `size` elements while it lives.
template <typename T>
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(std::int64_t size)
      : data_(size == 0 ? nullptr
                        : static_cast<T*>(take_scratch(static_cast<std::size_t>(size) * sizeof(T)))) {}
  Scratch(Scratch&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  Scratch& operator=(Scratch&& other) noexcept {
    T* const data = other.data_;
    other.data_ = data_;
    data_ = data;
    return *this;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (data_ != nullptr) give_scratch(data_);
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
};

}  // namespace smet::kernels::cpu
