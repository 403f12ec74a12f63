// SPDX-License-Identifier: BSD-3-Clause
#include <torch/library.h>

TORCH_LIBRARY(smet, m) {
  (void)m;
}
