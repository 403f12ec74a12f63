// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string_view>

namespace smet {

// Key of everything random about one layer: a stable hash of (seed, canonical layer name), so layers can be
// reordered, wrapped or trained on another machine without changing their topology.
//   layer_key = mix64(FNV-1a-64(name) ^ mix64(seed + 0x9E3779B97F4A7C15))
std::uint64_t layer_key(std::uint64_t seed, std::string_view name);

}  // namespace smet
