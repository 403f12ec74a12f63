// SPDX-License-Identifier: BSD-3-Clause
// The safetensors format: a little-endian u64 length, a JSON header of that length, then the tensors' bytes.
// Torch-free, so that it can be fuzzed alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace smet::checkpoint {

struct TensorEntry {
  std::string name;
  std::string dtype;  // "F32" and the like
  std::vector<std::int64_t> shape;
  std::size_t begin = 0, end = 0;  // bytes, from the start of the data
};

// Bytes of an element of `dtype`; 0 for an unknown one.
std::size_t dtype_size(std::string_view dtype);

struct TensorLayout {
  std::vector<TensorEntry> entries;  // in the order of their data
  std::size_t data = 0;              // where it starts in the file
};

// Reads the header of a whole file. The data is covered without gap, overlap or rest. Throws
// std::invalid_argument for anything else; never reads outside `file`.
TensorLayout parse_safetensors(std::string_view file);

// Puts the entries into the order of the safetensors library (wider dtypes first, then names), sets their
// offsets, and returns the file's head up to the data.
std::string make_safetensors_head(std::vector<TensorEntry>& entries);

}  // namespace smet::checkpoint
