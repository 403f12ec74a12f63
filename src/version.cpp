// SPDX-License-Identifier: BSD-3-Clause
#include "smet/version.h"

#define SMET_STRINGIFY_(x) #x
#define SMET_STRINGIFY(x) SMET_STRINGIFY_(x)

namespace smet {

const char* version() {
  return SMET_STRINGIFY(SMET_VERSION_MAJOR) "." SMET_STRINGIFY(SMET_VERSION_MINOR) "." SMET_STRINGIFY(
      SMET_VERSION_PATCH);
}

}  // namespace smet
