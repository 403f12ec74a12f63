# SPDX-License-Identifier: BSD-3-Clause
# Imports torch's headers and CPU libraries from the Python package. torch's own CMake package refuses to configure
# where no CUDA toolkit is installed, although the CPU code needs none.
#   smet_torch         libtorch, libtorch_cpu, libc10 and OpenMP
#   smet_torch_python  smet_torch, libtorch_python and the Python headers (for the binding only)

if(SMET_BUILD_PYTHON)
  find_package(Python 3.10 COMPONENTS Interpreter Development.Module REQUIRED)
else()
  find_package(Python 3.10 COMPONENTS Interpreter REQUIRED)
endif()

execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
  OUTPUT_VARIABLE SMET_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE _smet_result ERROR_QUIET)
if(NOT _smet_result EQUAL 0)
  message(FATAL_ERROR "smet: no torch in ${Python_EXECUTABLE}. Install it first (pip install torch), or choose "
                      "another interpreter with -DPython_EXECUTABLE=...")
endif()
file(STRINGS "${SMET_TORCH_DIR}/version.py" _smet_version REGEX "^__version__")
string(REGEX MATCH "[0-9]+\\.[0-9]+" SMET_TORCH_VERSION "${_smet_version}")
if(SMET_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "smet: torch ${SMET_TORCH_VERSION} found, 2.11 or newer needed: pip install -U torch")
endif()
message(STATUS "smet: torch ${SMET_TORCH_VERSION}")

find_package(OpenMP REQUIRED COMPONENTS CXX)

add_library(smet_torch INTERFACE)
target_include_directories(smet_torch SYSTEM INTERFACE
  "${SMET_TORCH_DIR}/include" "${SMET_TORCH_DIR}/include/torch/csrc/api/include")
# The compile flag makes at::parallel_for parallel (without it, it is silently serial); the runtime is the libgomp
# that torch loads, so there is one pool of threads in the process.
target_compile_options(smet_torch INTERFACE ${OpenMP_CXX_FLAGS})
target_link_libraries(smet_torch INTERFACE
  "${SMET_TORCH_DIR}/lib/libtorch.so" "${SMET_TORCH_DIR}/lib/libtorch_cpu.so" "${SMET_TORCH_DIR}/lib/libc10.so")
file(GLOB _smet_libgomp "${SMET_TORCH_DIR}/lib/libgomp*.so*")
if(_smet_libgomp)
  target_link_libraries(smet_torch INTERFACE ${_smet_libgomp})
else()
  target_link_libraries(smet_torch INTERFACE OpenMP::OpenMP_CXX)
endif()

if(SMET_BUILD_PYTHON)
  add_library(smet_torch_python INTERFACE)
  target_link_libraries(smet_torch_python INTERFACE
    smet_torch "${SMET_TORCH_DIR}/lib/libtorch_python.so" Python::Module)
endif()
