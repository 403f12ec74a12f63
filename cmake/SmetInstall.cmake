# SPDX-License-Identifier: BSD-3-Clause
# In a wheel everything lands inside the package folder (smet/lib, smet/include, smet/share/cmake/smet); otherwise in
# the usual places below the prefix.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

if(SKBUILD)
  set(_smet_prefix "smet/")
  set(SMET_LIB_DIR lib)
  set(SMET_INCLUDE_DIR include)
  set(_smet_cmake_dir share/cmake/smet)
else()
  set(_smet_prefix "")
  set(SMET_LIB_DIR "${CMAKE_INSTALL_LIBDIR}")
  set(SMET_INCLUDE_DIR "${CMAKE_INSTALL_INCLUDEDIR}")
  set(_smet_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/smet")
endif()
string(REGEX REPLACE "[^/]+" ".." SMET_ROOT_FROM_CONFIG "${_smet_cmake_dir}")

# First where a wheel puts torch beside smet, then where torch was found at build time.
set(_smet_rpath "$ORIGIN/../../torch/lib" "${SMET_TORCH_DIR}/lib")
if(SMET_CUDA)  # the CUDA libraries that torch's wheel brings
  list(APPEND _smet_rpath "$ORIGIN/../../nvidia/cu13/lib" "${SMET_TORCH_DIR}/../nvidia/cu13/lib")
endif()
set_target_properties(smet PROPERTIES INSTALL_RPATH "${_smet_rpath}")
install(TARGETS smet LIBRARY DESTINATION "${_smet_prefix}${SMET_LIB_DIR}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/smet" DESTINATION "${_smet_prefix}${SMET_INCLUDE_DIR}")

configure_file("${CMAKE_CURRENT_LIST_DIR}/smetConfig.cmake.in" "${PROJECT_BINARY_DIR}/smetConfig.cmake" @ONLY)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/smetConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/smetConfig.cmake" "${PROJECT_BINARY_DIR}/smetConfigVersion.cmake"
  "${CMAKE_CURRENT_LIST_DIR}/SmetTorch.cmake"
  DESTINATION "${_smet_prefix}${_smet_cmake_dir}")
