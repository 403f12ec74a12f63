// SPDX-License-Identifier: BSD-3-Clause
#include <torch/csrc/utils/pybind.h>

PYBIND11_MODULE(_C, m) {
  m.doc() = "smet: C++ engine of the Python package.";
}
