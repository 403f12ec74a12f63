// SPDX-License-Identifier: BSD-3-Clause
// The state `master_low` of a bfloat16 parameter with the option master_weights: the 16 bits that the
// parameter lacks of its float32 master (kernels/master_weight.h). Both front ends keep it under this name.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace smet {

// Throws TypeError for a float16 parameter and master_weights.
void check_master_option(at::ScalarType param, bool master_weights);

// int16 zeros like the parameter, so that the master is the parameter; undefined for one that has no master.
at::Tensor new_master_low(const at::Tensor& param, bool master_weights);

// What is wrong with one that was saved for `param`; "" if nothing is, or none was saved.
std::string master_low_problem(const at::Tensor& param, const at::Tensor& saved);

// to = saved, or zeros where none was saved; nothing where `to` is undefined.
void copy_master_low_(const at::Tensor& to, const at::Tensor& saved);

}  // namespace smet
