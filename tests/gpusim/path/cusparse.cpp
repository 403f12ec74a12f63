// SPDX-License-Identifier: BSD-3-Clause
// The part of cuSPARSE that src/ops/cuda/cusparse.cpp calls, in plain loops on the CPU's memory, sums in
// double. It shows that indices, leading dimensions and transpositions are what NVIDIA's documentation asks
// for, and refuses what that excludes; it says nothing about NVIDIA's code.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cusparse.h>

#include <cstring>

struct cusparseSpMatDescr {
  int64_t rows, cols, nnz;
  const int32_t* offsets;
  const int32_t* columns;
  void* values;
  cudaDataType type;
};
struct cusparseDnMatDescr {
  int64_t rows, cols, ld;
  void* values;
  cudaDataType type;
  cusparseOrder_t order;

  int64_t at(int64_t row, int64_t col) const {
    return order == CUSPARSE_ORDER_ROW ? row * ld + col : col * ld + row;
  }
  bool fits() const { return ld >= (order == CUSPARSE_ORDER_ROW ? cols : rows); }
};

namespace {

constexpr size_t kWorkspace = 64;
constexpr char kMark = 0x5A;

double load(const void* values, cudaDataType type, int64_t i) {
  switch (type) {
    case CUDA_R_64F:
      return static_cast<const double*>(values)[i];
    case CUDA_R_16BF:
      return static_cast<double>(static_cast<float>(static_cast<const __nv_bfloat16*>(values)[i]));
    case CUDA_R_16F:
      return static_cast<double>(static_cast<float>(static_cast<const __half*>(values)[i]));
    default:
      return static_cast<double>(static_cast<const float*>(values)[i]);
  }
}

void store(void* values, cudaDataType type, int64_t i, double x) {
  switch (type) {
    case CUDA_R_64F:
      static_cast<double*>(values)[i] = x;
      break;
    case CUDA_R_16BF:
      static_cast<__nv_bfloat16*>(values)[i] = __nv_bfloat16(static_cast<float>(x));
      break;
    case CUDA_R_16F:
      static_cast<__half*>(values)[i] = __half(static_cast<float>(x));
      break;
    default:
      static_cast<float*>(values)[i] = static_cast<float>(x);
  }
}

double scalar(const void* value, cudaDataType compute) {
  return load(value, compute, 0);
}

bool known(cudaDataType type, cudaDataType compute, bool bf16) {
  if (type == CUDA_R_64F) return compute == CUDA_R_64F;
  return compute == CUDA_R_32F && (type != CUDA_R_16BF || bf16);
}

}  // namespace

const char* cusparseGetErrorString(cusparseStatus_t status) {
  return status == CUSPARSE_STATUS_NOT_SUPPORTED ? "operation not supported" : "invalid value";
}

cusparseStatus_t cusparseCreateCsr(cusparseSpMatDescr_t* matrix, int64_t rows, int64_t cols, int64_t nnz,
                                   void* offsets, void* columns, void* values, cusparseIndexType_t,
                                   cusparseIndexType_t, cusparseIndexBase_t, cudaDataType type) {
  const auto* begin = static_cast<const int32_t*>(offsets);
  if (begin[0] != 0 || begin[rows] != nnz) return CUSPARSE_STATUS_INVALID_VALUE;
  *matrix =
      new cusparseSpMatDescr{rows, cols, nnz, begin, static_cast<const int32_t*>(columns), values, type};
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroySpMat(cusparseConstSpMatDescr_t matrix) {
  delete matrix;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseCreateDnMat(cusparseDnMatDescr_t* matrix, int64_t rows, int64_t cols, int64_t ld,
                                     void* values, cudaDataType type, cusparseOrder_t order) {
  const cusparseDnMatDescr described{rows, cols, ld, values, type, order};
  if (!described.fits()) return CUSPARSE_STATUS_INVALID_VALUE;
  *matrix = new cusparseDnMatDescr(described);
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroyDnMat(cusparseConstDnMatDescr_t matrix) {
  delete matrix;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSpMM_bufferSize(cusparseHandle_t, cusparseOperation_t, cusparseOperation_t,
                                         const void*, cusparseConstSpMatDescr_t, cusparseConstDnMatDescr_t,
                                         const void*, cusparseDnMatDescr_t, cudaDataType, cusparseSpMMAlg_t,
                                         size_t* bytes) {
  *bytes = kWorkspace;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSpMM(cusparseHandle_t, cusparseOperation_t op_a, cusparseOperation_t op_b,
                              const void* alpha, cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t b,
                              const void* beta, cusparseDnMatDescr_t c, cudaDataType compute,
                              cusparseSpMMAlg_t algorithm, void* workspace) {
  std::memset(workspace, kMark, kWorkspace);
  if (op_a != CUSPARSE_OPERATION_NON_TRANSPOSE || algorithm != CUSPARSE_SPMM_CSR_ALG3 ||
      !known(a->type, compute, true)) {
    return CUSPARSE_STATUS_NOT_SUPPORTED;
  }
  if (op_b != CUSPARSE_OPERATION_NON_TRANSPOSE || a->cols != b->rows || a->rows != c->rows ||
      b->cols != c->cols) {
    return CUSPARSE_STATUS_INVALID_VALUE;
  }
  const double scale = scalar(beta, compute);
  for (int64_t row = 0; row < c->rows; ++row) {
    for (int64_t col = 0; col < c->cols; ++col) {
      double sum = 0;
      for (int32_t i = a->offsets[row]; i < a->offsets[row + 1]; ++i) {
        sum += load(a->values, a->type, i) * load(b->values, b->type, b->at(a->columns[i], col));
      }
      const double before = scale == 0 ? 0 : scale * load(c->values, c->type, c->at(row, col));
      store(c->values, c->type, c->at(row, col), scalar(alpha, compute) * sum + before);
    }
  }
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSDDMM_bufferSize(cusparseHandle_t, cusparseOperation_t, cusparseOperation_t,
                                          const void*, cusparseConstDnMatDescr_t, cusparseConstDnMatDescr_t,
                                          const void*, cusparseSpMatDescr_t, cudaDataType, cusparseSDDMMAlg_t,
                                          size_t* bytes) {
  *bytes = kWorkspace;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSDDMM(cusparseHandle_t, cusparseOperation_t op_a, cusparseOperation_t op_b,
                               const void* alpha, cusparseConstDnMatDescr_t a, cusparseConstDnMatDescr_t b,
                               const void* beta, cusparseSpMatDescr_t c, cudaDataType compute,
                               cusparseSDDMMAlg_t, void* workspace) {
  std::memset(workspace, kMark, kWorkspace);
  if (!known(c->type, compute, false)) return CUSPARSE_STATUS_NOT_SUPPORTED;
  const bool transposed = op_a == CUSPARSE_OPERATION_TRANSPOSE;
  const int64_t inner = transposed ? a->rows : a->cols;
  if (op_b != CUSPARSE_OPERATION_NON_TRANSPOSE || inner != b->rows ||
      (transposed ? a->cols : a->rows) != c->rows || b->cols != c->cols) {
    return CUSPARSE_STATUS_INVALID_VALUE;
  }
  for (int64_t row = 0; row < c->rows; ++row) {
    for (int32_t i = c->offsets[row]; i < c->offsets[row + 1]; ++i) {
      double sum = 0;
      for (int64_t k = 0; k < inner; ++k) {
        sum += load(a->values, a->type, transposed ? a->at(k, row) : a->at(row, k)) *
               load(b->values, b->type, b->at(k, c->columns[i]));
      }
      const double before = scalar(beta, compute) * load(c->values, c->type, i);
      store(c->values, c->type, i, scalar(alpha, compute) * sum + before);
    }
  }
  return CUSPARSE_STATUS_SUCCESS;
}
