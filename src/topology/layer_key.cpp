// SPDX-License-Identifier: BSD-3-Clause
#include "src/topology/layer_key.h"

#include "kernels/philox.h"

namespace smet {

std::uint64_t layer_key(std::uint64_t seed, std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char character : name) {
    hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001B3ULL;
  }
  return kernels::mix64(hash ^ kernels::mix64(seed + 0x9E3779B97F4A7C15ULL));
}

}  // namespace smet
