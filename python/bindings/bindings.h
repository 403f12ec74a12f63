// SPDX-License-Identifier: BSD-3-Clause
// One function per part of the library; each lives in bind_<part>.cpp.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace smet::bindings {

void bind_nn(pybind11::module_& module);
void bind_optim(pybind11::module_& module);
void bind_topology(pybind11::module_& module);

}  // namespace smet::bindings
