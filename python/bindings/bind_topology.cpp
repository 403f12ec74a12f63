// SPDX-License-Identifier: BSD-3-Clause
#include "python/bindings/bindings.h"

namespace smet::bindings {

void bind_topology(pybind11::module_& module) {
  (void)module;
}

}  // namespace smet::bindings
