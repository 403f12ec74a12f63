# SPDX-License-Identifier: BSD-3-Clause
# The CUDA build: nvcc for the kernels, and torch's own CUDA libraries. Neither needs a GPU.
#   smet_torch_cuda   c10_cuda, torch_cuda and the CUDA runtime that torch brings
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
file(GLOB _smet_cudart "${SMET_TORCH_DIR}/../nvidia/cu13/lib/libcudart.so.*" "${SMET_TORCH_DIR}/lib/libcudart*.so*")
if(_smet_cudart)
  list(GET _smet_cudart 0 _smet_cudart)
else()
  find_package(CUDAToolkit REQUIRED)
  set(_smet_cudart CUDA::cudart)
endif()

add_library(smet_torch_cuda INTERFACE)
target_include_directories(smet_torch_cuda SYSTEM INTERFACE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
# Loaded even where no symbol of it is called: it registers torch's own CUDA operators.
target_link_libraries(smet_torch_cuda INTERFACE smet_torch "${SMET_TORCH_DIR}/lib/libc10_cuda.so"
  -Wl,--no-as-needed "${SMET_TORCH_DIR}/lib/libtorch_cuda.so" -Wl,--as-needed "${_smet_cudart}")
