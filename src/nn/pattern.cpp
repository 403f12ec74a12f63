// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <fnmatch.h>

#include "smet/convert.h"

namespace smet {

bool matches(const Pattern& pattern, const std::string& name, const torch::nn::Module& module) {
  if (const auto* text = std::get_if<std::string>(&pattern)) {
    TORCH_CHECK_VALUE(!text->empty(),
                      "smet: an empty name pattern would match every layer; leave it out, or write \"*\"");
    if (text->find_first_of("*?[") == std::string::npos) return name.find(*text) != std::string::npos;
    return fnmatch(text->c_str(), name.c_str(), FNM_NOESCAPE) == 0;
  }
  if (const auto* expression = std::get_if<std::regex>(&pattern)) return std::regex_search(name, *expression);
  return std::get<2>(pattern)(name, module);
}

Patterns default_skip() {
  return {"embed", "lm_head", "classifier", "score"};
}

}  // namespace smet
