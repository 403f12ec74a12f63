// SPDX-License-Identifier: BSD-3-Clause
#include "src/optim/moments.h"

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

#include <tuple>
#include <utility>

#include "kernels/adamw_compact.h"
#include "smet/values_registry.h"

namespace smet {
namespace {

using at::Tensor;

bool has_block8(const Tensor& param) {
  return values_info(param).has_value() || kernels::block8_worthwhile(moment_matrix(param).cols);
}

std::string describe(const Tensor& tensor) {
  return tensor.defined() ? c10::str(tensor.scalar_type(), " ", tensor.sizes()) : "missing";
}

void copy_moment_(const Tensor& to, const Tensor& from) {
  to.copy_(from);
  if (to.scalar_type() == at::kBFloat16 && from.scalar_type() != at::kBFloat16) {
    constexpr double kSmallest = 0x1p-133;  // subnormal bf16
    to.masked_fill_(from.gt(0).logical_and_(to.eq(0)), kSmallest);
  }
}

Tensor on_host(const Tensor& tensor, at::ScalarType dtype) {
  return tensor.to(at::kCPU, dtype).contiguous();
}

// 8-bit moments in host memory, as the kernels see them; `rank` stays alive with it.
struct OnHost {
  Tensor exp_avg, exp_avg_sq, scale, scale_sq, rank;
  kernels::CompactMoments view;

  OnHost(const Tensor& param, const Moments& moments)
      : exp_avg(on_host(moments.exp_avg, at::kChar)),
        exp_avg_sq(on_host(moments.exp_avg_sq, at::kByte)),
        scale(on_host(moments.exp_avg_scale, at::kFloat)),
        scale_sq(on_host(moments.exp_avg_sq_scale, at::kFloat)) {
    const MomentMatrix matrix = moment_matrix(param);
    if (matrix.rank.defined()) rank = on_host(matrix.rank, at::kInt);
    view = {.format = kernels::MomentFormat::block8,
            .key = 0,
            .rank = rank.defined() ? rank.const_data_ptr<std::int32_t>() : nullptr,
            .rows = matrix.rows,
            .cols = matrix.cols,
            .block_segments = matrix.block_segments,
            .scale = scale.mutable_data_ptr<float>(),
            .scale_sq = scale_sq.mutable_data_ptr<float>()};
    TORCH_CHECK_VALUE(kernels::block8_fits(view, param.numel()),
                      "smet: 8-bit moments: the rank of a layer does not belong to its ", param.numel(),
                      " values");
  }
};

}  // namespace

void check_moment_option(at::ScalarType param, const std::string& moments) {
  TORCH_CHECK_TYPE(param != at::kDouble || moments == "fp32",
                   "smet: CompactAdamW got a float64 parameter and moments=\"", moments,
                   "\"; expected moments=\"fp32\", "
                   "with which a float64 parameter has float64 moments. Put it into a group of its own");
}

MomentMatrix moment_matrix(const Tensor& param) {
  MomentMatrix matrix{};
  if (const auto info = values_info(param)) {
    matrix.rows = info->out_features;
    matrix.cols = info->in_features;
    matrix.rank = info->rank;
  } else {
    matrix.rows = param.dim() > 0 ? param.size(0) : 1;
    matrix.cols = matrix.rows > 0 ? param.numel() / matrix.rows : 0;
  }
  matrix.block_segments = kernels::block8_segments(matrix.rows, matrix.cols, param.numel());
  matrix.blocks = kernels::blocks_per_row(matrix.cols, matrix.block_segments);
  return matrix;
}

Moments new_moments(const Tensor& param, const std::string& moments) {
  check_moment_option(param.scalar_type(), moments);
  const auto like = param.options().requires_grad(false);
  if (moments != "8bit" || !has_block8(param)) {
    const auto dtype = param.scalar_type() == at::kDouble ? at::kDouble
                       : moments == "bf16"                ? at::kBFloat16
                                                          : at::kFloat;
    const auto options = at::TensorOptions(dtype).requires_grad(false);
    return {at::zeros_like(param, options), at::zeros_like(param, options), {}, {}};
  }
  const MomentMatrix matrix = moment_matrix(param);
  const auto scales = [&] { return at::zeros({matrix.rows, matrix.blocks}, like.dtype(at::kFloat)); };
  return {at::zeros(param.sizes(), like.dtype(at::kChar)), at::zeros(param.sizes(), like.dtype(at::kByte)),
          scales(), scales()};
}

std::string moments_problem(const Tensor& param, const Moments& saved) {
  const bool block8 = saved.block8();
  for (const auto& [key, moment, code] : {std::tuple{"exp_avg", saved.exp_avg, at::kChar},
                                          std::tuple{"exp_avg_sq", saved.exp_avg_sq, at::kByte}}) {
    const bool fits = moment.defined() && moment.sizes() == param.sizes() &&
                      (block8 ? moment.scalar_type() == code : at::isFloatingType(moment.scalar_type()));
    if (!fits) {
      return c10::str("'", key, "' is ", describe(moment), ", expected ",
                      block8 ? "8-bit codes" : "a floating tensor", " of shape ", param.sizes());
    }
  }
  if (!block8) return "";
  if (!has_block8(param)) return "'exp_avg' has 8-bit codes, which a parameter of this shape does not have";
  const MomentMatrix matrix = moment_matrix(param);
  for (const auto& [key, scale] : {std::pair{"exp_avg_scale", saved.exp_avg_scale},
                                   std::pair{"exp_avg_sq_scale", saved.exp_avg_sq_scale}}) {
    if (!scale.defined() || scale.scalar_type() != at::kFloat ||
        scale.sizes() != at::IntArrayRef({matrix.rows, matrix.blocks})) {
      return c10::str("'", key, "' is ", describe(scale), ", expected float32 [", matrix.rows, ", ",
                      matrix.blocks, "]");
    }
  }
  return "";
}

void copy_moments_(const Tensor& param, const Moments& to, const Moments& saved) {
  if (saved.block8() == to.block8()) {
    copy_moment_(to.exp_avg, saved.exp_avg);
    copy_moment_(to.exp_avg_sq, saved.exp_avg_sq);
    if (!to.block8()) return;
    to.exp_avg_scale.copy_(saved.exp_avg_scale);
    to.exp_avg_sq_scale.copy_(saved.exp_avg_sq_scale);
    return;
  }
  const auto floats = at::TensorOptions(at::kFloat);
  if (saved.block8()) {
    const OnHost codes(param, saved);
    const Tensor m = at::zeros(param.sizes(), floats);
    const Tensor v = at::zeros(param.sizes(), floats);
    kernels::block8_decode(codes.view, param.numel(), codes.exp_avg.const_data_ptr<std::int8_t>(),
                           codes.exp_avg_sq.const_data_ptr<std::uint8_t>(), m.mutable_data_ptr<float>(),
                           v.mutable_data_ptr<float>());
    copy_moment_(to.exp_avg, m);
    copy_moment_(to.exp_avg_sq, v);
    return;
  }
  const OnHost codes(param, to);
  const Tensor m = on_host(saved.exp_avg, at::kFloat);
  const Tensor v = on_host(saved.exp_avg_sq, at::kFloat);
  kernels::block8_encode(codes.view, param.numel(), m.const_data_ptr<float>(), v.const_data_ptr<float>(),
                         codes.exp_avg.mutable_data_ptr<std::int8_t>(),
                         codes.exp_avg_sq.mutable_data_ptr<std::uint8_t>());
  to.exp_avg.copy_(codes.exp_avg);
  to.exp_avg_sq.copy_(codes.exp_avg_sq);
  to.exp_avg_scale.copy_(codes.scale);
  to.exp_avg_sq_scale.copy_(codes.scale_sq);
}

}  // namespace smet
