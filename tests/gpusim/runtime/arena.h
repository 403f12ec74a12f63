// SPDX-License-Identifier: BSD-3-Clause
// The shared memory of one block.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace gpusim {

inline constexpr std::size_t kStaticSharedLimit = 48U << 10;
inline constexpr std::size_t kSharedLimit = 227U << 10;  // sm_90's; static and dynamic together

class Arena {
 public:
  Arena();
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // A new block: no static array, everything NaN, nothing but the dynamic bytes accessible.
  void reset(std::size_t dynamic_bytes);
  void* dynamic() const { return base_; }
  void* array(const void* key, const char* name, std::size_t bytes);
  std::size_t static_bytes() const;
  bool holds(const void* address) const;
  // Which array an address belongs to, or comes just after; for messages.
  std::string describe(const void* address) const;

 private:
  struct Array {
    const void* key;
    const char* name;
    char* begin;
    std::size_t bytes;
  };

  char* base_;
  std::size_t used_ = 0;
  std::vector<Array> arrays_;  // the first is the dynamic one
};

}  // namespace gpusim
