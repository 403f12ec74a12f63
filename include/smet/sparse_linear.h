// SPDX-License-Identifier: BSD-3-Clause
// SparseLinear: a linear layer of which only the active weights exist. The C++ twin of smet.SparseLinear:
// equal options give equal bytes.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>

namespace smet {

// Options of SparseLinear; names and defaults are those of Python's.
struct SparseLinearOptions {
  // Only the sizes have no default.
  SparseLinearOptions(int64_t in_features, int64_t out_features)
      : in_features_(in_features), out_features_(out_features) {}

  TORCH_ARG(int64_t, in_features);                       // columns of W
  TORCH_ARG(int64_t, out_features);                      // rows of W
  TORCH_ARG(bool, bias) = true;                          // whether there is one
  TORCH_ARG(double, density) = 0.25;                     // of (0, 1]; n = round(density * out * in)
  TORCH_ARG(std::string, algorithm) = "auto";            // a row of the algorithm table
  TORCH_ARG(uint64_t, seed) = 0;                         // positions and values are drawn from (seed, name)
  TORCH_ARG(std::string, name);                          // canonical name of the layer in its model
  TORCH_ARG(std::optional<double>, init_std);            // empty: as torch::nn::Linear; s: normal, bias 0
  TORCH_ARG(std::optional<std::string>, init_scale);     // "fan_in": values times 1 / sqrt(density)
  TORCH_ARG(at::Device, device) = at::Device(at::kCPU);  // of all tensors
  TORCH_ARG(at::ScalarType, dtype) = at::get_default_dtype_as_scalartype();  // of values and bias
};

// y = x W^T + b, W [out, in] zero outside its n active positions. Tensors as in the Python class:
//   values  parameter [n], row-major by position     mask  int32 [out, ceil(in / 32)], a bit per position
//   bias    parameter [out] or undefined             rank  int32 [out, ceil(in / 1024)], derived from mask
// Archives hold values, mask and bias; rank is derived again on load. Errors are c10::ValueError and
// c10::TypeError that name the layer.
class SparseLinearImpl : public torch::nn::Cloneable<SparseLinearImpl> {
 public:
  // Allocates and draws as reset() does. Throws for an option out of range.
  SparseLinearImpl(int64_t in_features, int64_t out_features)
      : SparseLinearImpl(SparseLinearOptions(in_features, out_features)) {}
  explicit SparseLinearImpl(SparseLinearOptions options);

  // Allocates the tensors and draws positions, values and bias from (seed, name).
  void reset() override;
  // Draws again into the tensors at hand; nothing on the meta device.
  void reset_parameters();

  // [..., in] -> [..., out], in values' dtype.
  at::Tensor forward(const at::Tensor& input);

  int64_t nnz() const { return values.numel(); }  // n, active weights
  double density() const;                         // n / (out_features * in_features)
  // W as a dense [out, in] tensor, differentiable with respect to values.
  at::Tensor dense_weight() const;
  // Takes the packed positions `new_mask` (exactly n of them), in place.
  void set_mask(const at::Tensor& new_mask);
  // What set_mask checks: throws, naming `what`, unless new_mask holds n positions of this layer's shape.
  void check_mask(const at::Tensor& new_mask, const char* what) const;

  // The weights of a dense layer at the positions of `mask` (packed, or boolean [out, in]), else at
  // options.density of them: drawn by (seed, name) with select = "random", or those of the largest |w| with
  // "magnitude" (equal ones: the larger flat position). With options.init_std the values are drawn anew.
  // Device, dtype and requires_grad are those of the dense layer.
  static std::shared_ptr<SparseLinearImpl> from_dense(const torch::nn::LinearImpl& source,
                                                      SparseLinearOptions options,
                                                      const at::Tensor& mask = {},
                                                      const std::string& select = "random");
  // The torch::nn::Linear of the same function; zeros where no weight is active.
  torch::nn::Linear to_dense() const;

  // torch's Module::to(dtype) casts every buffer, integers included; here positions stay int32.
  void to(at::Device device, at::ScalarType dtype, bool non_blocking = false) override;
  void to(at::ScalarType dtype, bool non_blocking = false) override;
  void to(at::Device device, bool non_blocking = false) override;

  // Values, mask and bias. Loading derives rank, and throws with nothing changed where shapes or n differ.
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;
  // Sizes and exact density.
  void pretty_print(std::ostream& stream) const override;

  SparseLinearOptions options;  // as constructed; `to` keeps device and dtype right
  at::Tensor values;            // parameter [n]
  at::Tensor bias;              // parameter [out], or undefined
  at::Tensor mask;              // buffer, int32 [out, ceil(in / 32)]
  at::Tensor rank;              // buffer, int32 [out, ceil(in / 1024)]
  // Set by TopologyScheduler to an int64 [k] tensor when the coming backward must record the inactive
  // positions of largest |dW| there; undefined otherwise.
  at::Tensor grow_candidates;

 private:
  void remember() const;
};
TORCH_MODULE(SparseLinear);

}  // namespace smet
