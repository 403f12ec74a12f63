// SPDX-License-Identifier: BSD-3-Clause
// libFuzzer target (X9): the readers of safetensors headers and of manifests on any bytes. scripts/fuzz.sh.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "src/checkpoint/json.h"
#include "src/checkpoint/safetensors.h"

using namespace smet::checkpoint;

// What was accepted is consistent: every tensor inside the data, its size that of its shape.
static void check(std::string_view file, const TensorLayout& layout) {
  std::size_t at = 0;
  for (const TensorEntry& entry : layout.entries) {
    std::size_t bytes = dtype_size(entry.dtype);
    for (const std::int64_t size : entry.shape) bytes *= static_cast<std::size_t>(size);
    if (entry.begin != at || entry.end - entry.begin != bytes) std::abort();
    at = entry.end;
  }
  if (layout.data + at != file.size()) std::abort();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  try {
    check(file, parse_safetensors(file));
  } catch (const std::invalid_argument&) {
  }
  try {
    const Json value = parse_json(file);
    if (parse_json(dump_json(value)) != value) std::abort();
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
