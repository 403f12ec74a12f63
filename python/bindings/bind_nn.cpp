// SPDX-License-Identifier: BSD-3-Clause
#include <cstdint>
#include <string>

#include "python/bindings/bindings.h"
#include "smet/values_registry.h"
#include "src/topology/layer_key.h"

namespace py = pybind11;

namespace smet::bindings {
namespace {

py::object info_tuple(const at::Tensor& values) {
  const auto info = values_info(values);
  if (!info) return py::none();
  return py::make_tuple(info->out_features, info->in_features, info->name);
}

// Operators take keys as int64: the bits of the unsigned key, as in the schemas.
std::int64_t signed_layer_key(std::int64_t seed, const std::string& name) {
  return static_cast<std::int64_t>(layer_key(static_cast<std::uint64_t>(seed), name));
}

}  // namespace

void bind_nn(py::module_& module) {
  module.def("register_values", &register_values, py::arg("values"), py::arg("out_features"),
             py::arg("in_features"), py::arg("name") = "",
             "Record that `values` are the active weights of an out_features x in_features layer.");
  module.def("values_info", &info_tuple, py::arg("values"),
             "(out_features, in_features, name) of a registered values parameter, or None.");
  module.def("layer_key", &signed_layer_key, py::arg("seed"), py::arg("name"),
             "Key of everything random about one layer; int64 with the bits of the unsigned key.");
}

}  // namespace smet::bindings
