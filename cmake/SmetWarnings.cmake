# SPDX-License-Identifier: BSD-3-Clause
option(SMET_WERROR "Warnings are errors" ON)
add_library(smet_warnings INTERFACE)
target_compile_options(smet_warnings INTERFACE -Wall -Wextra -Wconversion)
if(SMET_WERROR)
  target_compile_options(smet_warnings INTERFACE -Werror)
endif()
