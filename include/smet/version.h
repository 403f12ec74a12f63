// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#define SMET_VERSION_MAJOR 0  // of the headers that a program is compiled against
#define SMET_VERSION_MINOR 1  // the same
#define SMET_VERSION_PATCH 0  // the same

namespace smet {

// "MAJOR.MINOR.PATCH" of the library that is linked (the macros are those it was compiled against).
const char* version();

}  // namespace smet
