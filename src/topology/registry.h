// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace smet {

// A fixed table of named things (schedules, criteria, distributions), in the order of its lines.
template <typename T>
class Registry {
 public:
  Registry(std::string what, std::vector<std::pair<std::string, T>> entries)
      : what_(std::move(what)), entries_(std::move(entries)) {}

  // Throws ValueError that lists the known names.
  const T& at(std::string_view name) const {
    for (const auto& [known, entry] : entries_) {
      if (known == name) return entry;
    }
    std::string known_names;
    for (const auto& [known, entry] : entries_)
      known_names += (known_names.empty() ? "'" : ", '") + known + "'";
    TORCH_CHECK_VALUE(false, "smet: unknown ", what_, " '", name, "'; known: ", known_names);
  }

  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [known, entry] : entries_) result.push_back(known);
    return result;
  }

 private:
  std::string what_;
  std::vector<std::pair<std::string, T>> entries_;
};

}  // namespace smet
