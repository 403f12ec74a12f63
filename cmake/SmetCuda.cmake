# SPDX-License-Identifier: BSD-3-Clause
# The CUDA build: nvcc for the kernels, and torch's own CUDA libraries. Neither needs a GPU.
#   smet_torch_cuda   c10_cuda, torch_cuda, and the CUDA runtime and cuSPARSE that torch brings
# torch's CMake package is not used (it overwrites CMAKE_CUDA_ARCHITECTURES and links far more).
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100-real 120)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
# One runtime in the process: torch's.
set(CMAKE_CUDA_RUNTIME_LIBRARY None)
enable_language(CUDA)

if(NOT EXISTS "${SMET_TORCH_DIR}/lib/libc10_cuda.so")
  message(FATAL_ERROR "smet: SMET_CUDA=ON, but torch ${SMET_TORCH_VERSION} in ${SMET_TORCH_DIR} is built without CUDA. "
                      "Install one with it (pip install torch), or leave SMET_CUDA off")
endif()
set(_smet_cuda_libraries)
foreach(_smet_library cudart cusparse)  # torch's, or where it has none the toolkit's
  file(GLOB _smet_found "${SMET_TORCH_DIR}/../nvidia/cu13/lib/lib${_smet_library}.so.*"
    "${SMET_TORCH_DIR}/lib/lib${_smet_library}*.so*")
  if(_smet_found)
    list(GET _smet_found 0 _smet_found)
  else()
    find_package(CUDAToolkit REQUIRED)
    set(_smet_found CUDA::${_smet_library})
  endif()
  list(APPEND _smet_cuda_libraries "${_smet_found}")
endforeach()

add_library(smet_torch_cuda INTERFACE)
target_include_directories(smet_torch_cuda SYSTEM INTERFACE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
# Loaded even where no symbol of it is called: it registers torch's own CUDA operators.
target_link_libraries(smet_torch_cuda INTERFACE smet_torch "${SMET_TORCH_DIR}/lib/libc10_cuda.so"
  -Wl,--no-as-needed "${SMET_TORCH_DIR}/lib/libtorch_cuda.so" -Wl,--as-needed ${_smet_cuda_libraries})
