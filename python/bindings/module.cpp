// SPDX-License-Identifier: BSD-3-Clause
#include "python/bindings/bindings.h"
#include "smet/version.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "smet: the C++ engine behind the Python package.";
  module.def("version", &smet::version);
  smet::bindings::bind_nn(module);
  smet::bindings::bind_optim(module);
  smet::bindings::bind_topology(module);
}
