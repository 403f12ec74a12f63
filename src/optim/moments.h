// SPDX-License-Identifier: BSD-3-Clause
// How the two moments of a parameter are stored, by the option `moments`: made, checked, and converted when
// state of another format is loaded. Both front ends keep these tensors in their state under these names.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace smet {

// "fp32": exp_avg and exp_avg_sq like the parameter, float32. "bf16": the same in bfloat16. "8bit":
// contiguous codes int8 and uint8 of the parameter's shape, and float32 scales [rows, blocks]
// (kernels/adamw_compact.h); a dense parameter is a matrix of size(0) rows there, and one of fewer than 64
// columns, such as a norm's or a bias, has float32 moments. float64 parameters have float64 moments, and
// "fp32" alone.
struct Moments {
  at::Tensor exp_avg, exp_avg_sq;
  at::Tensor exp_avg_scale, exp_avg_sq_scale;  // undefined but for 8-bit moments

  bool block8() const { return exp_avg.defined() && exp_avg.scalar_type() == at::kChar; }
};

// Throws TypeError for a float64 parameter and moments other than "fp32".
void check_moment_option(at::ScalarType param, const std::string& moments);

// Zeros, on the parameter's device.
Moments new_moments(const at::Tensor& param, const std::string& moments);

// What is wrong with moments that were saved for `param`, in any format; "" if nothing is.
std::string moments_problem(const at::Tensor& param, const Moments& saved);

// to = saved, in the format of `to`: to nearest, but a second moment above 0 stays above 0. 8-bit moments are
// converted at the layer's present positions: load the model before.
void copy_moments_(const at::Tensor& param, const Moments& to, const Moments& saved);

// The matrix that 8-bit moments take a parameter for. rank: of a sparse layer; undefined for a dense
// parameter.
struct MomentMatrix {
  std::int64_t rows, cols, block_segments, blocks;  // blocks: of a row
  at::Tensor rank;
};
MomentMatrix moment_matrix(const at::Tensor& param);

}  // namespace smet
