// SPDX-License-Identifier: BSD-3-Clause
#include "smet/sparsify.h"

#include <c10/util/StringUtil.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <unordered_set>
#include <vector>

#include "smet/compact_adamw.h"

namespace smet {
namespace {

using torch::optim::OptimizerParamState;

// mask: a bit per position; rank: 4 bytes per 1,024 positions.
constexpr double kIndexBytes = 4.0 / 32 + 4.0 / 1024;

// Counts storages, each once.
class Books {
 public:
  std::int64_t measure(at::TensorList tensors) {
    std::int64_t count = 0;
    for (const at::Tensor& tensor : tensors) {
      if (!tensor.defined() || !seen_.insert(tensor.storage().unsafeGetStorageImpl()).second) continue;
      count += static_cast<std::int64_t>(tensor.storage().nbytes());
    }
    return count;
  }

 private:
  std::unordered_set<const void*> seen_;
};

struct StateTensors {
  std::vector<at::Tensor> moments;  // the first one: exp_avg
  at::Tensor cohort, births, master_low;
};

StateTensors state_tensors(torch::optim::Optimizer* optimizer, const at::Tensor& parameter) {
  if (optimizer == nullptr) return {};
  const auto found = optimizer->state().find(parameter.unsafeGetTensorImpl());
  if (found == optimizer->state().end()) return {};
  OptimizerParamState* state = found->second.get();
  if (auto* compact = dynamic_cast<CompactAdamWParamState*>(state)) {
    return {
        {compact->exp_avg(), compact->exp_avg_sq(), compact->exp_avg_scale(), compact->exp_avg_sq_scale()},
        compact->cohort(),
        compact->births(),
        compact->master_low()};
  }
  if (auto* adamw = dynamic_cast<torch::optim::AdamWParamState*>(state)) {
    return {{adamw->exp_avg(), adamw->exp_avg_sq(), adamw->max_exp_avg_sq()}, {}, {}, {}};
  }
  if (auto* adam = dynamic_cast<torch::optim::AdamParamState*>(state)) {
    return {{adam->exp_avg(), adam->exp_avg_sq(), adam->max_exp_avg_sq()}, {}, {}, {}};
  }
  return {};
}

// What one moment should take: CompactAdamW's two bytes where it keeps bf16, or one and its share of a scale
// where it keeps 8 bits, else 8 for fp64 values or 4.
double moment_bytes(const at::Tensor& moment, const at::Tensor& values,
                    const torch::optim::Optimizer* optimizer) {
  const bool compact = dynamic_cast<const CompactAdamW*>(optimizer) != nullptr;
  if (compact && moment.scalar_type() == at::kBFloat16) return 2;
  if (compact && moment.scalar_type() == at::kChar) return 1 + 4.0 / 128;
  return values.scalar_type() == at::kDouble ? 8 : 4;
}

void add_layer(MemoryReport& report, Books& books, const SparseLinearImpl& layer,
               torch::optim::Optimizer* optimizer) {
  const StateTensors state = state_tensors(optimizer, layer.values);
  report.weights += books.measure({layer.values});
  report.gradients += books.measure({layer.values.grad()});
  report.moments += books.measure(state.moments) + books.measure({state.master_low});
  report.cohorts += books.measure({state.cohort});
  report.index += books.measure({layer.mask, layer.rank});
  report.other += books.measure({state.births});

  const auto element = static_cast<double>(layer.values.element_size());
  const std::int64_t positions = layer.options.out_features() * layer.options.in_features();
  double width = element * (layer.values.grad().defined() ? 2 : 1);
  if (!state.moments.empty()) width += 2 * moment_bytes(state.moments[0], layer.values, optimizer);
  if (state.master_low.defined()) width += 2;
  const int cohort = state.moments.empty() ? 0 : 1;
  report.sparse_dense_adamw +=
      static_cast<std::int64_t>(std::llround(width * static_cast<double>(positions)));
  report.formula += (width + cohort) * static_cast<double>(layer.values.numel()) +
                    kIndexBytes * static_cast<double>(positions);
}

std::string bytes_text(std::int64_t count) {
  constexpr std::array<std::pair<const char*, double>, 4> kUnits{
      {{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}}};
  for (const auto& [unit, size] : kUnits) {
    const double scaled = static_cast<double>(count) / size;
    if (scaled < 0.9995) continue;
    const int digits = scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0;
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.*f %s", digits, scaled, unit);
    return text.data();
  }
  return c10::str(count, " B");
}

}  // namespace

std::vector<std::pair<std::string, std::shared_ptr<SparseLinearImpl>>> sparse_layers(
    torch::nn::Module& model) {
  std::vector<std::pair<std::string, std::shared_ptr<SparseLinearImpl>>> layers;
  // The model itself may live on the stack, where named_modules cannot share it.
  if (auto* self = dynamic_cast<SparseLinearImpl*>(&model)) {
    layers.emplace_back("", std::shared_ptr<SparseLinearImpl>(std::shared_ptr<void>(), self));
  }
  for (const auto& item : model.named_modules(/*name_prefix=*/"", /*include_self=*/false)) {
    if (auto layer = std::dynamic_pointer_cast<SparseLinearImpl>(item.value())) {
      layers.emplace_back(item.key(), std::move(layer));
    }
  }
  return layers;
}

MemoryReport report(torch::nn::Module& model, torch::optim::Optimizer* optimizer) {
  MemoryReport result;
  Books books;
  std::unordered_set<const void*> sparse;
  for (const auto& [name, layer] : sparse_layers(model)) {
    if (!sparse.insert(layer->values.unsafeGetTensorImpl()).second) continue;
    add_layer(result, books, *layer, optimizer);
  }
  for (const at::Tensor& parameter : model.parameters()) {
    if (sparse.contains(parameter.unsafeGetTensorImpl())) continue;
    const StateTensors state = state_tensors(optimizer, parameter);
    result.dense_weights += books.measure({parameter});
    result.dense_gradients += books.measure({parameter.grad()});
    result.dense_moments += books.measure(state.moments) + books.measure({state.master_low});
  }
  result.dense_adamw =
      result.sparse_dense_adamw + result.dense_weights + result.dense_gradients + result.dense_moments;
  return result;
}

std::ostream& operator<<(std::ostream& stream, const MemoryReport& report) {
  const std::array<std::pair<const char*, std::int64_t>, 9> kinds{{
      {"weights", report.weights},
      {"gradients", report.gradients},
      {"moments", report.moments},
      {"cohorts", report.cohorts},
      {"index", report.index},
      {"dense weights", report.dense_weights},
      {"dense gradients", report.dense_gradients},
      {"dense moments", report.dense_moments},
      {"other", report.other},
  }};
  for (const auto& [kind, count] : kinds) stream << kind << ": " << bytes_text(count) << "\n";
  std::array<char, 32> deviation{};
  std::snprintf(deviation.data(), deviation.size(), "%+.2f %%", 100 * report.deviation());
  return stream << "sparse layers: " << bytes_text(report.sparse_total()) << " measured, "
                << bytes_text(static_cast<std::int64_t>(report.formula)) << " by formula ("
                << deviation.data() << ")\ndense " << bytes_text(report.dense_adamw) << " -> "
                << bytes_text(report.total());
}

}  // namespace smet
