// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/cpu/scratch.h"

#include <cstdlib>
#include <map>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace smet::kernels::cpu {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// The block's size stands in front of it.
struct alignas(64) Header {
  std::size_t bytes;
};

// Large blocks ask for huge pages: random columns of packed activations miss the TLB otherwise.
void* allocate(std::size_t bytes) {
  const bool large = bytes + sizeof(Header) >= kHugePage / 2;
  const std::size_t unit = large ? kHugePage : sizeof(Header);
  const std::size_t size = (bytes + sizeof(Header) + unit - 1) / unit * unit;
  void* const block = std::aligned_alloc(unit, size);
  if (block == nullptr) throw std::bad_alloc();
#ifdef __linux__
  if (large) madvise(block, size, MADV_HUGEPAGE);  // a wish: failure changes nothing
#endif
  new (block) Header{size - sizeof(Header)};
  return block;
}

class Kept {
 public:
  ~Kept() {
    for (const auto& [bytes, block] : blocks_) std::free(block);
  }

  void* take(std::size_t bytes) {
    const auto found = blocks_.lower_bound(bytes);
    // A block much too large stays for a call that needs it.
    if (found != blocks_.end() && found->first <= 2 * bytes + kSmall) {
      void* const block = found->second;
      kept_ -= found->first;
      blocks_.erase(found);
      return block;
    }
    return allocate(bytes);
  }

  void give(void* block) noexcept try {
    const std::size_t bytes = static_cast<Header*>(block)->bytes;
    if (bytes > kKeptBytes) throw std::bad_alloc();
    while (kept_ + bytes > kKeptBytes) {
      const auto smallest = blocks_.begin();
      kept_ -= smallest->first;
      std::free(smallest->second);
      blocks_.erase(smallest);
    }
    blocks_.emplace(bytes, block);
    kept_ += bytes;
  } catch (const std::bad_alloc&) {
    std::free(block);
  }

 private:
  static constexpr std::size_t kSmall = 4096;
  std::multimap<std::size_t, void*> blocks_;
  std::size_t kept_ = 0;
};

Kept& kept() {
  thread_local Kept blocks;
  return blocks;
}

}  // namespace

void* take_scratch(std::size_t bytes) {
  return static_cast<Header*>(kept().take(bytes)) + 1;
}

void give_scratch(void* data) noexcept {
  kept().give(static_cast<Header*>(data) - 1);
}

}  // namespace smet::kernels::cpu
