// SPDX-License-Identifier: BSD-3-Clause
// Which parameters are the packed values of a sparse layer, of what shape and at which positions. An
// optimizer that is given parameters alone learns each layer's density here, and where its blocks of weights
// begin.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>

namespace smet {

// The layer that a values parameter belongs to.
struct ValuesInfo {
  std::int64_t out_features;  // rows of W
  std::int64_t in_features;   // columns of W
  std::string name;           // canonical layer name, "" while unknown
  at::Tensor rank;  // int32 [out, ceil(in / 1024)]; undefined while unknown, or when the layer is gone

  // Fraction of the positions that are active; 1 for a layer without positions.
  double density(std::int64_t nnz) const {
    const double positions = static_cast<double>(out_features) * static_cast<double>(in_features);
    return positions > 0 ? static_cast<double>(nnz) / positions : 1.0;
  }
};

// Records that `values` [n] are the active weights of an out_features x in_features layer. A second call
// replaces what the first said. The registry holds no reference that keeps values or rank alive. Throws
// ValueError when values is undefined or not 1-D, or has more elements than the layer has positions.
// Thread-safe.
void register_values(const at::Tensor& values, std::int64_t out_features, std::int64_t in_features,
                     std::string name = "", const at::Tensor& rank = {});

// What was registered for this very tensor object (not for a copy or view of it).
std::optional<ValuesInfo> values_info(const at::Tensor& values);

}  // namespace smet
