// SPDX-License-Identifier: BSD-3-Clause
// The ways to compute a sparse layer, one table for each device. Adding an algorithm is one row, in
// algorithm_table.cpp or cuda/algorithm_table.cpp: tests and benchmarks iterate the table, `auto` takes the
// first row that applies and is preferred.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <vector>

#include "kernels/types.h"

namespace smet::ops {

// What an algorithm sees of a layer besides its activations. n = pattern.nnz.
struct SparseProblem {
  kernels::Pattern pattern;
  at::ScalarType dtype;    // of activations and values alike
  c10::DeviceType device;  // where the tensors are
  int64_t tokens;          // rows of the activations
  at::Tensor mask, rank;   // the pattern's; the mask's version counter says when the positions change
};

struct Gradients {
  at::Tensor input, values;
};

// Activations are 2-D with unit stride along the features, in the problem's dtype; values [n] are contiguous.
// Each function returns a new tensor in the problem's dtype, every element rounded to it once.
struct Algorithm {
  const char* name;
  bool (*applies)(const SparseProblem& problem);    // it can
  bool (*preferred)(const SparseProblem& problem);  // `auto` should take it where it applies

  // y [T, out] = x [T, in] W^T + bias
  at::Tensor (*forward)(const SparseProblem& problem, const at::Tensor& x, const at::Tensor& values,
                        const std::optional<at::Tensor>& bias);
  // dx [T, in] = dy [T, out] W when want_input; dvalues [n] = (dy^T x) at the active positions when
  // want_values; what is not wanted is undefined, and x or values are then not read.
  Gradients (*backward)(const SparseProblem& problem, const at::Tensor& dy, const at::Tensor& x,
                        const at::Tensor& values, bool want_input, bool want_values);
};

using AlgorithmTable = std::vector<Algorithm>;  // in the order in which `auto` tries them

// The table of a device; empty where this build has none.
const AlgorithmTable& algorithm_table(c10::DeviceType device);

// Makes `rows` the table of `device`. Called as a library is loaded, before any other function here.
void set_algorithm_table(c10::DeviceType device, AlgorithmTable rows);

// The row called `name`; for "auto" the environment variable SMET_ALGORITHM decides when it is set, else the
// first row that applies and is preferred. ValueError for an unknown name (it lists the known ones) and for
// an algorithm that does not apply to the problem.
const Algorithm& choose_algorithm(const AlgorithmTable& table, std::string_view name,
                                  const SparseProblem& problem);

}  // namespace smet::ops
