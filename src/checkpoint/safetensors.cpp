// SPDX-License-Identifier: BSD-3-Clause
#include "src/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>

#include "src/checkpoint/json.h"

namespace smet::checkpoint {
namespace {

struct DType {
  std::string_view name;
  std::size_t size;
};
// In the order of the library's enumeration, which is that of the data, backwards.
constexpr std::array<DType, 10> kDTypes{{{"BOOL", 1},
                                         {"U8", 1},
                                         {"I8", 1},
                                         {"I16", 2},
                                         {"F16", 2},
                                         {"BF16", 2},
                                         {"I32", 4},
                                         {"F32", 4},
                                         {"F64", 8},
                                         {"I64", 8}}};
constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kLongestHeader = 100'000'000;

std::size_t dtype_order(std::string_view dtype) {
  const auto found =
      std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DType& d) { return d.name == dtype; });
  return static_cast<std::size_t>(found - kDTypes.begin());
}

[[noreturn]] void fail(const std::string& what) {
  throw std::invalid_argument(what);
}

std::size_t unsigned_number(const Json& value, const std::string& name) {
  if (!value.is_number_unsigned()) fail("tensor '" + name + "': " + value.dump() + " is not a count");
  const auto number = value.get<std::uint64_t>();
  if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    fail("tensor '" + name + "': " + value.dump() + " is too large");
  }
  return number;
}

TensorEntry parse_entry(const std::string& name, const Json& value) {
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
      !value.contains("data_offsets") || !value["dtype"].is_string() || !value["shape"].is_array() ||
      !value["data_offsets"].is_array() || value["data_offsets"].size() != 2) {
    fail("tensor '" + name + "' is not a dtype, a shape and two data_offsets");
  }
  TensorEntry entry{.name = name, .dtype = value["dtype"].get<std::string>(), .shape = {}};
  std::size_t bytes = dtype_size(entry.dtype);
  if (bytes == 0) fail("tensor '" + name + "' has the unknown dtype '" + entry.dtype + "'");
  for (const Json& item : value["shape"]) {
    const std::size_t size = unsigned_number(item, name);
    entry.shape.push_back(static_cast<std::int64_t>(size));
    if (__builtin_mul_overflow(bytes, size, &bytes)) fail("tensor '" + name + "' is too large");
  }
  entry.begin = unsigned_number(value["data_offsets"][0], name);
  entry.end = unsigned_number(value["data_offsets"][1], name);
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    fail("tensor '" + name + "' has " + std::to_string(bytes) + " bytes, but its offsets are " +
         std::to_string(entry.begin) + " and " + std::to_string(entry.end));
  }
  return entry;
}

void check_metadata(const Json& value) {
  if (!value.is_object()) fail("__metadata__ is not an object");
  for (const auto& [key, item] : value.items()) {
    if (!item.is_string()) fail("__metadata__ '" + key + "' is not a string");
  }
}

}  // namespace

std::size_t dtype_size(std::string_view dtype) {
  const std::size_t order = dtype_order(dtype);
  return order < kDTypes.size() ? kDTypes[order].size : 0;
}

TensorLayout parse_safetensors(std::string_view file) {
  if (file.size() < kLengthBytes) fail("the file ends before its header");
  std::uint64_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) length = length << 8 | static_cast<unsigned char>(file[i]);
  if (length > kLongestHeader || length > file.size() - kLengthBytes) {
    fail("the header has " + std::to_string(length) + " bytes, more than the file or than 100 MB");
  }
  const std::string_view header = file.substr(kLengthBytes, length);
  if (header.empty() || header[0] != '{') fail("the header does not start with '{'");
  const Json json = parse_json(header);
  TensorLayout layout;
  layout.data = kLengthBytes + length;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      check_metadata(value);
    } else {
      layout.entries.push_back(parse_entry(name, value));
    }
  }
  std::sort(layout.entries.begin(), layout.entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::size_t at = 0;
  for (const TensorEntry& entry : layout.entries) {
    if (entry.begin != at)
      fail("tensor '" + entry.name + "' starts at " + std::to_string(entry.begin) + "; expected " +
           std::to_string(at));
    at = entry.end;
  }
  if (at != file.size() - layout.data) {
    fail("the tensors end at " + std::to_string(at) + ", the data at " +
         std::to_string(file.size() - layout.data));
  }
  return layout;
}

std::string make_safetensors_head(std::vector<TensorEntry>& entries) {
  std::sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    const std::size_t left = dtype_order(a.dtype), right = dtype_order(b.dtype);
    return left != right ? left > right : a.name < b.name;
  });
  std::string header = "{";
  std::size_t at = 0;
  for (TensorEntry& entry : entries) {
    std::size_t bytes = dtype_size(entry.dtype);
    for (const std::int64_t size : entry.shape) bytes *= static_cast<std::size_t>(size);
    entry.begin = at;
    entry.end = at += bytes;
    header += header.size() > 1 ? "," : "";
    header += Json(entry.name).dump() + R"(:{"dtype":")" + entry.dtype + R"(","shape":)" +
              Json(entry.shape).dump() + R"(,"data_offsets":[)" + std::to_string(entry.begin) + "," +
              std::to_string(entry.end) + "]}";
  }
  header += "}";
  header.append((kLengthBytes - header.size() % kLengthBytes) % kLengthBytes, ' ');
  std::string head;
  for (std::size_t i = 0; i < kLengthBytes; ++i) head += static_cast<char>(header.size() >> (8 * i) & 255);
  return head + header;
}

}  // namespace smet::checkpoint
