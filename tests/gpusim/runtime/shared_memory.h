// SPDX-License-Identifier: BSD-3-Clause
// Shared memory of the running block, as kernels see it.
#pragma once

#include <cstddef>

namespace gpusim {

// The block's array of that key: made at the first call in a block, NaN-filled, 128-byte aligned, exact
// bounds.
void* static_shared(const void* key, const char* name, std::size_t bytes);
void* dynamic_shared();

}  // namespace gpusim
