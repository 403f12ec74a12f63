// SPDX-License-Identifier: BSD-3-Clause
// A guard for kernels that call at:: functions.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace smet::ops {

// While it lives, at:: calls record no gradient and are not autocast. Without it a matrix product on fp32
// scratch inside a kernel would be cast to bf16 when a backward pass runs under torch.autocast.
struct BelowAutograd {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

}  // namespace smet::ops
