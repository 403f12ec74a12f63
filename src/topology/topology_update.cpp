// SPDX-License-Identifier: BSD-3-Clause
#include "smet/topology_update.h"

#include <cstdarg>
#include <cstdio>

namespace smet {
namespace {

double ratio(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

std::int64_t sum(const std::vector<LayerUpdate>& layers, std::int64_t LayerUpdate::*field) {
  std::int64_t total = 0;
  for (const LayerUpdate& layer : layers) total += layer.*field;
  return total;
}

[[gnu::format(printf, 1, 2)]] std::string print(const char* format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  return text;
}

// What a layer and the whole model have in common.
template <typename T>
std::string common_text(const T& update, std::int64_t n, std::int64_t k, std::int64_t nan_count) {
  std::string text = print("replaced %lld of %lld (%.2f %%)", static_cast<long long>(k),
                           static_cast<long long>(n), 100.0 * update.churn());
  if (const auto pruned = update.last_cohort_pruned()) {
    text += print(", last cohort pruned %.1f %%", 100.0 * *pruned);
  }
  if (const auto explored = update.explored()) text += print(", explored %.1f %%", 100.0 * *explored);
  if (nan_count > 0) text += print(", %lld NaN", static_cast<long long>(nan_count));
  return text;
}

}  // namespace

double LayerUpdate::density() const {
  return ratio(n, positions);
}

double LayerUpdate::churn() const {
  return ratio(k, n);
}

std::optional<double> LayerUpdate::last_cohort_pruned() const {
  if (!last_cohort_size.has_value() || *last_cohort_size == 0) return std::nullopt;
  return ratio(last_cohort_died, *last_cohort_size);
}

std::optional<double> LayerUpdate::explored() const {
  if (!explored_positions.has_value()) return std::nullopt;
  return ratio(*explored_positions, positions);
}

std::int64_t TopologyUpdate::n() const {
  return sum(layers, &LayerUpdate::n);
}

std::int64_t TopologyUpdate::k() const {
  return sum(layers, &LayerUpdate::k);
}

std::int64_t TopologyUpdate::nan_count() const {
  return sum(layers, &LayerUpdate::nan_count);
}

double TopologyUpdate::density() const {
  return ratio(n(), sum(layers, &LayerUpdate::positions));
}

double TopologyUpdate::churn() const {
  return ratio(k(), n());
}

std::optional<double> TopologyUpdate::last_cohort_pruned() const {
  std::int64_t size = 0;
  for (const LayerUpdate& layer : layers) size += layer.last_cohort_size.value_or(0);
  if (size == 0) return std::nullopt;
  return ratio(sum(layers, &LayerUpdate::last_cohort_died), size);
}

std::optional<double> TopologyUpdate::explored() const {
  std::int64_t explored = 0;
  for (const LayerUpdate& layer : layers) {
    if (!layer.explored_positions.has_value()) return std::nullopt;
    explored += *layer.explored_positions;
  }
  return ratio(explored, sum(layers, &LayerUpdate::positions));
}

std::string TopologyUpdate::to_string() const {
  std::string text = print("topology update %lld at step %lld: ", static_cast<long long>(update),
                           static_cast<long long>(step)) +
                     common_text(*this, n(), k(), nan_count()) +
                     print(", hash %016llx", static_cast<unsigned long long>(hash));
  for (const LayerUpdate& layer : layers) {
    text += "\n  " + layer.name + ": " + common_text(layer, layer.n, layer.k, layer.nan_count);
  }
  return text;
}

}  // namespace smet
