// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/cuda/cusparse.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <cusparse.h>

#include <memory>
#include <type_traits>

#include "src/ops/cuda/csr_indices.h"
#include "src/ops/cuda/device.h"
#include "src/ops/cuda/sparse_handle.h"

namespace smet::ops::cuda::cusparse {
namespace {

using at::Tensor;

void check(cusparseStatus_t status, const SparseProblem& problem, const char* call) {
  TORCH_CHECK(status == CUSPARSE_STATUS_SUCCESS, "smet: ", call, " failed for a ", problem.pattern.rows, "x",
              problem.pattern.cols, " layer of dtype ", problem.dtype, ": ", cusparseGetErrorString(status),
              ". Choose algorithm 'expand_gemm' for this layer");
}

struct Destroy {
  void operator()(cusparseSpMatDescr_t matrix) const { cusparseDestroySpMat(matrix); }
  void operator()(cusparseDnMatDescr_t matrix) const { cusparseDestroyDnMat(matrix); }
};
using SparseMatrix = std::unique_ptr<std::remove_pointer_t<cusparseSpMatDescr_t>, Destroy>;
using DenseMatrix = std::unique_ptr<std::remove_pointer_t<cusparseDnMatDescr_t>, Destroy>;

cudaDataType data_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return CUDA_R_64F;
    case at::kBFloat16:
      return CUDA_R_16BF;
    case at::kHalf:
      return CUDA_R_16F;
    default:
      return CUDA_R_32F;
  }
}

// A scalar of the compute type in host memory.
class Scalar {
 public:
  Scalar(double value, at::ScalarType dtype)
      : double_(value), float_(static_cast<float>(value)), is_double_(dtype == at::kDouble) {}
  const void* get() const { return is_double_ ? static_cast<const void*>(&double_) : &float_; }

 private:
  double double_;
  float float_;
  bool is_double_;
};
cudaDataType compute_type(at::ScalarType dtype) {
  return dtype == at::kDouble ? CUDA_R_64F : CUDA_R_32F;
}

SparseMatrix sparse(const SparseProblem& problem, const CsrIndices& csr, int64_t cols, const Tensor& values) {
  cusparseSpMatDescr_t matrix = nullptr;
  check(cusparseCreateCsr(&matrix, csr.offsets.size(0) - 1, cols, csr.columns.size(0),
                          csr.offsets.mutable_data_ptr(), csr.columns.mutable_data_ptr(),
                          values.mutable_data_ptr(), CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I,
                          CUSPARSE_INDEX_BASE_ZERO, data_type(problem.dtype)),
        problem, "cusparseCreateCsr");
  return SparseMatrix(matrix);
}

// A row-major matrix of torch, or, seen in column-major order, its transpose.
DenseMatrix dense(const SparseProblem& problem, const Tensor& matrix, cusparseOrder_t order) {
  const bool transposed = order == CUSPARSE_ORDER_COL;
  cusparseDnMatDescr_t descriptor = nullptr;
  check(cusparseCreateDnMat(&descriptor, matrix.size(transposed ? 1 : 0), matrix.size(transposed ? 0 : 1),
                            matrix.stride(0), matrix.mutable_data_ptr(), data_type(problem.dtype), order),
        problem, "cusparseCreateDnMat");
  return DenseMatrix(descriptor);
}

// out^T = A in^T + beta out^T. CSR_ALG3 is the one whose sums have one order at every run.
void multiply(const SparseProblem& problem, const OnDevice& device, const SparseMatrix& a, const Tensor& in,
              double beta_value, const Tensor& out) {
  const DenseMatrix b = dense(problem, in, CUSPARSE_ORDER_COL);
  const DenseMatrix c = dense(problem, out, CUSPARSE_ORDER_COL);
  const Scalar alpha(1, problem.dtype);
  const Scalar beta(beta_value, problem.dtype);
  const auto handle = sparse_handle(device);
  const auto compute = compute_type(problem.dtype);
  constexpr auto as_is = CUSPARSE_OPERATION_NON_TRANSPOSE;
  size_t bytes = 0;
  check(cusparseSpMM_bufferSize(handle, as_is, as_is, alpha.get(), a.get(), b.get(), beta.get(), c.get(),
                                compute, CUSPARSE_SPMM_CSR_ALG3, &bytes),
        problem, "cusparseSpMM_bufferSize");
  const Tensor workspace = device.scratch(static_cast<int64_t>(bytes));
  check(cusparseSpMM(handle, as_is, as_is, alpha.get(), a.get(), b.get(), beta.get(), c.get(), compute,
                     CUSPARSE_SPMM_CSR_ALG3, workspace.mutable_data_ptr()),
        problem, "cusparseSpMM");
}

Tensor input_gradient(const SparseProblem& problem, const OnDevice& device, const Tensor& dy,
                      const Tensor& values) {
  Tensor dx = at::empty({dy.size(0), problem.pattern.cols}, dy.options());
  if (problem.pattern.nnz == 0) return dx.zero_();
  const TransposedIndices transposed = transposed_indices(device, problem);
  const Tensor moved = values.index_select(0, transposed.order);
  multiply(problem, device, sparse(problem, transposed.csr, problem.pattern.rows, moved), dy, 0, dx);
  return dx;
}

Tensor values_gradient(const SparseProblem& problem, const OnDevice& device, const Tensor& dy,
                       const Tensor& x) {
  TORCH_CHECK_TYPE(problem.dtype != at::kBFloat16,
                   "smet: cuSPARSE has no sampled product (SDDMM) of BFloat16, which the gradient of a "
                   "layer's values needs; choose algorithm 'expand_gemm' for this layer, or float32");
  // Zeros, since nothing says that what is multiplied by beta = 0 is not read.
  Tensor grad = at::zeros({problem.pattern.nnz}, x.options());
  const SparseMatrix c = sparse(problem, csr_indices(device, problem), problem.pattern.cols, grad);
  const DenseMatrix a = dense(problem, dy, CUSPARSE_ORDER_ROW);
  const DenseMatrix b = dense(problem, x, CUSPARSE_ORDER_ROW);
  const Scalar alpha(1, problem.dtype);
  const Scalar beta(0, problem.dtype);
  const auto handle = sparse_handle(device);
  const auto compute = compute_type(problem.dtype);
  size_t bytes = 0;
  check(cusparseSDDMM_bufferSize(handle, CUSPARSE_OPERATION_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE,
                                 alpha.get(), a.get(), b.get(), beta.get(), c.get(), compute,
                                 CUSPARSE_SDDMM_ALG_DEFAULT, &bytes),
        problem, "cusparseSDDMM_bufferSize");
  const Tensor workspace = device.scratch(static_cast<int64_t>(bytes));
  check(cusparseSDDMM(handle, CUSPARSE_OPERATION_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, alpha.get(),
                      a.get(), b.get(), beta.get(), c.get(), compute, CUSPARSE_SDDMM_ALG_DEFAULT,
                      workspace.mutable_data_ptr()),
        problem, "cusparseSDDMM");
  return grad;
}

}  // namespace

Tensor forward(const SparseProblem& problem, const Tensor& x, const Tensor& values,
               const std::optional<Tensor>& bias) {
  const OnDevice device(x);
  Tensor y = at::empty({x.size(0), problem.pattern.rows}, x.options());
  // The bias is the first term of every sum, so y is rounded once.
  if (bias) y.copy_(bias->expand_as(y));
  if (problem.pattern.nnz == 0) return bias ? y : y.zero_();
  const CsrIndices csr = csr_indices(device, problem);
  multiply(problem, device, sparse(problem, csr, problem.pattern.cols, values), x, bias ? 1 : 0, y);
  return y;
}

Gradients backward(const SparseProblem& problem, const Tensor& dy, const Tensor& x, const Tensor& values,
                   bool want_input, bool want_values) {
  const OnDevice device(dy);
  return {want_input ? input_gradient(problem, device, dy, values) : Tensor(),
          want_values ? values_gradient(problem, device, dy, x) : Tensor()};
}

}  // namespace smet::ops::cuda::cusparse
