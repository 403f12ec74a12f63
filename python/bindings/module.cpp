// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/isa.h"
#include "python/bindings/bindings.h"
#include "smet/version.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "smet: the C++ engine behind the Python package.";
  module.def("version", &smet::version);
  module.def("active_isa", &smet::kernels::active_isa, "Instruction set of the kernels in use.");
  smet::bindings::bind_nn(module);
  smet::bindings::bind_optim(module);
  smet::bindings::bind_topology(module);
}
