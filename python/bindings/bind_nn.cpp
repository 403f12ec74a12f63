// SPDX-License-Identifier: BSD-3-Clause
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "python/bindings/bindings.h"
#include "smet/values_registry.h"
#include "src/nn/initial_values.h"
#include "src/ops/algorithm_table.h"
#include "src/ops/expand_gemm.h"

namespace py = pybind11;

namespace smet::bindings {
namespace {

using no_gil = py::call_guard<py::gil_scoped_release>;

void register_tensor(const at::Tensor& values, std::int64_t out_features, std::int64_t in_features,
                     std::string name, const std::optional<at::Tensor>& rank) {
  register_values(values, out_features, in_features, std::move(name), rank.value_or(at::Tensor()));
}

py::object info_tuple(const at::Tensor& values) {
  const auto info = values_info(values);
  if (!info) return py::none();
  return py::make_tuple(info->out_features, info->in_features, info->name,
                        info->rank.defined() ? py::cast(info->rank) : py::none());
}

InitialValues initial_values(std::int64_t seed, const std::string& name, std::optional<double> init_std,
                             bool fan_in_scale) {
  return {static_cast<std::uint64_t>(seed), name, init_std, fan_in_scale};
}

void fill_values(at::Tensor values, const at::Tensor& mask, const at::Tensor& rank, std::int64_t cols,
                 std::int64_t seed, const std::string& name, std::optional<double> init_std,
                 bool fan_in_scale) {
  fill_initial_values(values, mask, rank, cols, initial_values(seed, name, init_std, fan_in_scale));
}

void fill_bias(at::Tensor bias, std::int64_t cols, std::int64_t seed, const std::string& name,
               std::optional<double> init_std) {
  fill_initial_bias(bias, cols, initial_values(seed, name, init_std, false));
}

at::Tensor initial_mask(std::int64_t out_features, std::int64_t cols, std::int64_t n, std::int64_t seed,
                        const std::string& name) {
  return draw_initial_mask(out_features, cols, n, static_cast<std::uint64_t>(seed), name);
}

}  // namespace

void bind_nn(py::module_& module) {
  module.def(
      "register_values", &register_tensor, py::arg("values"), py::arg("out_features"), py::arg("in_features"),
      py::arg("name") = "", py::arg("rank") = py::none(),
      "Record that `values` are the active weights of an out_features x in_features layer with `rank`.");
  module.def("values_info", &info_tuple, py::arg("values"),
             "(out_features, in_features, name, rank or None) of a registered values parameter, or None.");
  module.def("draw_initial_mask", &initial_mask, py::arg("out_features"), py::arg("in_features"),
             py::arg("n"), py::arg("seed"), py::arg("name"), no_gil(),
             "Packed mask of n positions, a function of (seed, name, shape, n).");
  module.def("fill_initial_values", &fill_values, py::arg("values"), py::arg("mask"), py::arg("rank"),
             py::arg("in_features"), py::arg("seed"), py::arg("name"), py::arg("init_std") = py::none(),
             py::arg("fan_in_scale") = false, no_gil(), "Draw the initial values in place.");
  module.def("fill_initial_bias", &fill_bias, py::arg("bias"), py::arg("in_features"), py::arg("seed"),
             py::arg("name"), py::arg("init_std") = py::none(), no_gil(), "Draw the initial bias in place.");
  module.def(
      "algorithm_names",
      [](const std::string& device) {
        const c10::DeviceType type = c10::Device(device).type();
        std::vector<std::string> names;
        for (const ops::Algorithm& row : ops::algorithm_table(type)) names.emplace_back(row.name);
        return names;
      },
      "Names of the algorithm table's rows for a device, in the order in which `auto` tries them.");
  module.def("expand_gemm_scratch_bytes", &ops::expand_gemm::scratch_bytes,
             "Most bytes of scratch that one call of the expand_gemm algorithm holds now.");
}

}  // namespace smet::bindings
