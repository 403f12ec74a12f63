// SPDX-License-Identifier: BSD-3-Clause
#include <pybind11/stl.h>

#include "python/bindings/bindings.h"
#include "src/topology/distribution.h"
#include "src/topology/layer_key.h"

namespace py = pybind11;

namespace smet::bindings {
namespace {

using Shapes = std::vector<std::array<std::int64_t, 2>>;

void bind_distribution(py::module_& module) {
  module.def("active_count", &active_count, py::arg("density"), py::arg("out_features"),
             py::arg("in_features"),
             "n = round(density * out * in), halves away from zero: the exact count of one layer.");
  module.def(
      "distribute",
      [](const Shapes& shapes, double density, const std::string& name) {
        return distribute(shapes, density, name);
      },
      py::arg("shapes"), py::arg("density"), py::arg("distribution") = "uniform",
      "Active weights of each layer (shapes are (out, in)) at one global density.");
  module.def("distribution_names", &distribution_names);
  module.def("layer_key", [](std::uint64_t seed, const std::string& name) { return layer_key(seed, name); });
}

}  // namespace

void bind_topology(py::module_& module) {
  bind_distribution(module);
}

}  // namespace smet::bindings
