// SPDX-License-Identifier: BSD-3-Clause
// Under autocast a sparse layer does what nn.Linear does: input, weights and bias are cast to the autocast
// dtype once, then everything below runs with autocast excluded (see below_autograd.h for why).
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace smet::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <c10::DispatchKey key, c10::DeviceType device>
Tensor sparse_linear(const Tensor& input, const Tensor& values, const Tensor& mask, const Tensor& rank,
                     const OptionalTensor& bias, std::string_view algorithm) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("smet::sparse_linear", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                           const OptionalTensor&, std::string_view)>();
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto dtype = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const Tensor& tensor) { return at::autocast::cached_cast(dtype, tensor, device); };
  return op.call(cast(input), cast(values), mask, rank, bias ? OptionalTensor(cast(*bias)) : std::nullopt,
                 algorithm);
}

}  // namespace

TORCH_LIBRARY_IMPL(smet, AutocastCPU, m) {
  m.impl("sparse_linear", &sparse_linear<c10::DispatchKey::AutocastCPU, c10::DeviceType::CPU>);
}

TORCH_LIBRARY_IMPL(smet, AutocastCUDA, m) {
  m.impl("sparse_linear", &sparse_linear<c10::DispatchKey::AutocastCUDA, c10::DeviceType::CUDA>);
}

}  // namespace smet::ops
