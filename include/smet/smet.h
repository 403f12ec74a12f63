// SPDX-License-Identifier: BSD-3-Clause
// Everything a C++ trainer needs: sparse layer, optimizer, topology.
#pragma once

#include "smet/age_schedule.h"
#include "smet/checkpoint.h"  // its functions need a build with nlohmann-json3-dev and libssl-dev
#include "smet/compact_adamw.h"
#include "smet/convert.h"
#include "smet/linear_cross_entropy.h"
#include "smet/sparse_linear.h"
#include "smet/sparsify.h"
#include "smet/topology_scheduler.h"
#include "smet/version.h"
