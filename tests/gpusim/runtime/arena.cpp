// SPDX-License-Identifier: BSD-3-Clause
#include "arena.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

#include "sanitizers.h"

namespace gpusim {
namespace {

constexpr std::size_t kArenaBytes = 512U << 10;  // both limits and the gaps between arrays
constexpr std::size_t kAlignment = 128;
constexpr std::size_t kGap = 128;
constexpr int kNaN = 0xFF;  // every byte 0xFF is a NaN in every floating type, and -1

}  // namespace

Arena::Arena() {
  void* pages =
      mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<char*>(pages);
}

Arena::~Arena() {
  allow(base_, kArenaBytes);
  munmap(base_, kArenaBytes);
}

void Arena::reset(std::size_t dynamic_bytes) {
  arrays_.clear();
  used_ = 0;
  allow(base_, kArenaBytes);
  // All that a block may use, once for all arrays: one made later, by a thread of the block, is not written
  // by that thread, which the race check would see.
  std::memset(base_, kNaN, dynamic_bytes + kStaticSharedLimit + 64 * (kAlignment + kGap));
  forbid(base_, kArenaBytes);
  array(nullptr, "dynamic", dynamic_bytes);
}

void* Arena::array(const void* key, const char* name, std::size_t bytes) {
  for (const Array& a : arrays_) {
    if (a.key == key) return a.begin;
  }
  const OwnMemory own;
  char* begin = base_ + used_;
  allow(begin, bytes);
  arrays_.push_back({key, name, begin, bytes});
  used_ = (used_ + bytes + kGap + kAlignment - 1) / kAlignment * kAlignment;
  return begin;
}

std::size_t Arena::static_bytes() const {
  std::size_t bytes = 0;
  for (const Array& a : arrays_) bytes += a.key == nullptr ? 0 : a.bytes;
  return bytes;
}

bool Arena::holds(const void* address) const {
  return address >= base_ && address < base_ + kArenaBytes;
}

std::string Arena::describe(const void* address) const {
  if (!holds(address)) return "global memory";
  const Array* found = &arrays_.front();
  for (const Array& a : arrays_) {
    if (a.begin <= address) found = &a;
  }
  const auto offset = static_cast<const char*>(address) - found->begin;
  return "byte " + std::to_string(offset) + " of shared array '" + found->name + "' of " +
         std::to_string(found->bytes) + " bytes";
}

}  // namespace gpusim
