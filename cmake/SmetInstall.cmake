# SPDX-License-Identifier: BSD-3-Clause
# In a wheel everything lands inside the package folder (smet/lib, smet/include, smet/share/cmake); otherwise in the
# usual places below the prefix.
include(GNUInstallDirs)
if(SKBUILD)
  set(_smet_prefix "smet/")
  set(_smet_lib "smet/lib")
else()
  set(_smet_prefix "")
  set(_smet_lib "${CMAKE_INSTALL_LIBDIR}")
endif()
set_target_properties(smet PROPERTIES INSTALL_RPATH "$ORIGIN/../../torch/lib;${SMET_TORCH_DIR}/lib")
install(TARGETS smet LIBRARY DESTINATION "${_smet_lib}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/smet" DESTINATION "${_smet_prefix}include")
