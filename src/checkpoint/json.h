// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace smet::checkpoint {

using Json = nlohmann::json;

// RFC 8259 and nothing more: no duplicate keys, no deeper than 64, the whole text. Throws
// std::invalid_argument.
Json parse_json(std::string_view text);

// The text of Python's json.dumps(value, indent=1, sort_keys=True): equal values give equal bytes. Numbers
// that are not finite throw std::invalid_argument.
std::string dump_json(const Json& value);

}  // namespace smet::checkpoint
