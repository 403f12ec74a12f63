// SPDX-License-Identifier: BSD-3-Clause
#include "src/nn/initial_values.h"

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <bit>
#include <cmath>
#include <numbers>

#include "kernels/keyed_draws.h"
#include "src/ops/kernel_glue.h"
#include "src/topology/layer_key.h"

namespace smet {
namespace {

double draw_uniform(std::uint64_t bits, double bound) {
  const double u = (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
  return (2 * u - 1) * bound;
}

double draw_normal(std::uint64_t bits, double std) {
  const double u1 = (static_cast<double>(bits & 0xFFFFFFFFU) + 0.5) * 0x1p-32;
  const double u2 = (static_cast<double>(bits >> 32) + 0.5) * 0x1p-32;
  return std * std::sqrt(-2 * std::log(u1)) * std::cos(2 * std::numbers::pi * u2);
}

// The distribution of one layer: draw j, already scaled.
struct Source {
  std::uint64_t key;
  bool normal;
  double scale;  // bound or standard deviation

  double operator()(std::int64_t j) const {
    const std::uint64_t bits =
        kernels::keyed_draw(key, kernels::DrawStream::init_values, 0, static_cast<std::uint64_t>(j));
    return normal ? draw_normal(bits, scale) : draw_uniform(bits, scale);
  }
};

void check_std(const InitialValues& how) {
  TORCH_CHECK_VALUE(!how.init_std || (std::isfinite(*how.init_std) && *how.init_std >= 0), "smet: layer '",
                    how.name, "': init_std is ", how.init_std.value_or(0), "; expected a number >= 0");
}

template <typename T>
void fill(T* out, const kernels::Pattern& pattern, const Source& source) {
  const std::int64_t words = kernels::words_per_row(pattern.cols);
  const std::int64_t segments = kernels::segments_per_row(pattern.cols);
  at::parallel_for(0, pattern.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      T* value = out + pattern.rank[row * segments];
      for (std::int64_t word = 0; word < words; ++word) {
        for (std::uint32_t bits = pattern.mask[row * words + word]; bits != 0; bits &= bits - 1) {
          const std::int64_t column = word * kernels::kWordColumns + std::countr_zero(bits);
          *value++ = static_cast<T>(source(row * pattern.cols + column));
        }
      }
    }
  });
}

// A CPU buffer of the dtype in which values are computed, written to `target` when `body` has filled it.
template <typename F>
void through_buffer(at::Tensor& target, F&& body) {
  const c10::AutoGradMode no_grad(false);
  const bool wide = target.scalar_type() == at::kDouble;
  at::Tensor buffer = at::empty({target.numel()}, at::TensorOptions().dtype(wide ? at::kDouble : at::kFloat));
  if (wide) {
    body(buffer.mutable_data_ptr<double>());
  } else {
    body(buffer.mutable_data_ptr<float>());
  }
  target.copy_(buffer);
}

}  // namespace

void fill_initial_values(at::Tensor& values, const at::Tensor& mask, const at::Tensor& rank,
                         std::int64_t cols, const InitialValues& how) {
  check_std(how);
  const std::int64_t n = values.numel();
  if (n == 0) return;
  const at::Tensor cpu_mask = mask.cpu();
  const at::Tensor cpu_rank = rank.cpu();
  const auto pattern = ops::make_pattern(cpu_mask, cpu_rank, cols, n);
  const double density =
      static_cast<double>(n) / (static_cast<double>(pattern.rows) * static_cast<double>(cols));
  const double base = how.init_std.value_or(1 / std::sqrt(static_cast<double>(cols)));
  const Source source{layer_key(how.seed, how.name), how.init_std.has_value(),
                      how.fan_in_scale ? base / std::sqrt(density) : base};
  through_buffer(values, [&](auto* out) { fill(out, pattern, source); });
}

void fill_initial_bias(at::Tensor& bias, std::int64_t cols, const InitialValues& how) {
  const double bound = how.init_std || cols == 0 ? 0 : 1 / std::sqrt(static_cast<double>(cols));
  const Source source{layer_key(how.seed, how.name + ".bias"), false, bound};
  const std::int64_t n = bias.numel();
  through_buffer(bias, [&](auto* out) {
    for (std::int64_t j = 0; j < n; ++j) out[j] = static_cast<std::decay_t<decltype(*out)>>(source(j));
  });
}

at::Tensor draw_initial_mask(std::int64_t out_features, std::int64_t cols, std::int64_t n, std::uint64_t seed,
                             const std::string& name) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("smet::draw_positions", "")
                             .typed<at::Tensor(const at::Tensor&, c10::SymInt, std::int64_t, std::int64_t,
                                               std::int64_t, std::int64_t)>();
  const at::Tensor none = at::zeros({out_features, kernels::words_per_row(cols)},
                                    at::TensorOptions().dtype(at::kInt).device(at::kCPU));
  return op.call(none, cols, n, static_cast<std::int64_t>(layer_key(seed, name)),
                 static_cast<std::int64_t>(kernels::DrawStream::initial), 0);
}

}  // namespace smet
