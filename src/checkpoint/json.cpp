// SPDX-License-Identifier: BSD-3-Clause
#include "src/checkpoint/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <stdexcept>
#include <vector>

namespace smet::checkpoint {
namespace {

constexpr int kDeepest = 64;

// Python's repr of a float: the shortest digits that read back equal; an exponent from 1e16 and below 1e-4.
std::string float_text(double value) {
  if (!std::isfinite(value)) throw std::invalid_argument("a number is not finite, which JSON cannot say");
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  std::string text(buffer, end);
  const std::size_t e = text.find('e');
  const int point = std::stoi(text.substr(e + 1)) + 1;  // digits before the decimal point
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  const int count = static_cast<int>(digits.size());
  std::string out = std::signbit(value) ? "-" : "";
  const auto zeros = [&out](int n) { out.append(static_cast<std::size_t>(n), '0'); };
  if (value != 0 && (point > 16 || point <= -4)) {
    out += digits[0];
    if (count > 1) out.append(1, '.').append(digits, 1);
    return out.append(text, e);
  }
  if (point <= 0) {
    out += "0.";
    zeros(-point);
    return out += digits;
  }
  const auto whole = static_cast<std::size_t>(std::min(point, count));
  out.append(digits, 0, whole);
  zeros(point - static_cast<int>(whole));
  out += '.';
  return whole < digits.size() ? out.append(digits, whole) : out += '0';
}

void dump(const Json& value, int depth, std::string& out) {
  if (value.is_number_float()) {
    out += float_text(value.get<double>());
    return;
  }
  if (!value.is_structured() || value.empty()) {
    out += value.dump(-1, ' ', /*ensure_ascii=*/true);
    return;
  }
  const std::string indent(static_cast<std::size_t>(depth + 1), ' ');
  out += value.is_object() ? "{" : "[";
  bool first = true;
  for (const auto& [key, item] : value.items()) {
    out += first ? "\n" : ",\n";
    first = false;
    out += indent;
    if (value.is_object()) out.append(Json(key).dump(-1, ' ', /*ensure_ascii=*/true)).append(": ");
    dump(item, depth + 1, out);
  }
  out += '\n';
  out.append(static_cast<std::size_t>(depth), ' ');
  out += value.is_object() ? "}" : "]";
}

}  // namespace

Json parse_json(std::string_view text) {
  // nlohmann's parser takes a NUL byte for the end, and would accept whatever follows.
  if (text.find('\0') != std::string_view::npos) {
    throw std::invalid_argument("the JSON holds a NUL byte");
  }
  std::vector<std::set<std::string>> keys;
  const auto check = [&keys](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kDeepest) throw std::invalid_argument("the JSON is nested too deep");
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw std::invalid_argument("the JSON has the key '" + parsed.get<std::string>() + "' twice");
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), check);
  } catch (const Json::exception& error) {
    throw std::invalid_argument(error.what());
  }
}

std::string dump_json(const Json& value) {
  std::string out;
  dump(value, 0, out);
  return out;
}

}  // namespace smet::checkpoint
