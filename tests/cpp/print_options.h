// SPDX-License-Identifier: BSD-3-Clause
// Default values of options as JSON, in Python's terms; for the program that print_options.py writes.
#pragma once

#include <smet/smet.h>

#include <concepts>
#include <iomanip>
#include <iostream>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

// What Python calls None: nothing given, torch's own default, or that of the other options.
inline std::string json(std::nullopt_t) {
  return "null";
}
inline std::string json(bool value) {
  return value ? "true" : "false";
}
template <std::integral T>
std::string json(T value) {
  return std::to_string(value);
}
inline std::string json(double value) {
  std::ostringstream text;
  text << std::setprecision(17) << value;
  return text.str();
}
inline std::string json(const std::string& value) {
  return '"' + value + '"';
}
inline std::string json(at::Device value) {
  return value == at::Device(at::kCPU) ? "null" : '"' + value.str() + '"';
}
inline std::string json(at::ScalarType value) {
  return value == at::get_default_dtype_as_scalartype() ? "null"
                                                        : std::string("\"") + at::toString(value) + '"';
}
inline std::string json(const smet::AgeSchedule& value) {
  return value == smet::AgeSchedule() ? "null" : "\"another\"";
}
inline std::string json(const at::Tensor& value) {
  return value.defined() ? "\"tensor\"" : "null";
}
inline std::string json(const smet::CheckpointRun&) {
  return "null";
}
template <typename Result, typename... Arguments>
std::string json(const std::function<Result(Arguments...)>& value) {
  return value ? "\"callable\"" : "null";
}
inline std::string json(const std::regex&) {
  return "\"regex\"";
}
inline std::string list(const std::vector<std::string>& items) {
  std::string text = "[";
  for (const std::string& item : items) text.append(text.size() > 1 ? ", " : "").append(item);
  return text.append("]");
}
template <typename... T>
std::string json(const std::variant<T...>& value);
template <typename T>
std::string json(const std::vector<T>& value);
template <typename A, typename B>
std::string json(const std::pair<A, B>& value) {
  return list({json(value.first), json(value.second)});
}
template <typename T>
std::string json(const std::optional<T>& value) {
  return value ? json(*value) : json(std::nullopt);
}
inline std::string json(const std::tuple<double, double>& value) {
  return list({json(std::get<0>(value)), json(std::get<1>(value))});
}
template <typename... T>
std::string json(const std::variant<T...>& value) {
  return std::visit([](const auto& held) { return json(held); }, value);
}
template <typename T>
std::string json(const std::vector<T>& value) {
  std::vector<std::string> items;
  for (const T& item : value) items.push_back(json(item));
  return list(items);
}

inline const char* separator = "{\n";

inline void begin(const char* name) {
  std::cout << separator << '"' << name << "\": {";
  separator = "\n";
}
template <typename T>
void print(const char* option, const T& value) {
  std::cout << separator << "  \"" << option << "\": " << json(value);
  separator = ",\n";
}
inline void end() {
  std::cout << "}";
  separator = ",\n";
}
inline void finish() {
  std::cout << "}\n";
}
