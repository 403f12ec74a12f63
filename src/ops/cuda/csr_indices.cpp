// SPDX-License-Identifier: BSD-3-Clause
#include "src/ops/cuda/csr_indices.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>

#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "kernels/csr_columns.h"
#include "src/ops/kernel_glue.h"

namespace smet::ops::cuda {
namespace {

using at::Tensor;

// What the indices of one mask were derived from, and they.
struct Kept {
  c10::weak_intrusive_ptr<c10::StorageImpl> storage;
  uint32_t version;
  kernels::cuda::Stream stream;
  int64_t cols, n;
  CsrIndices csr;
  std::optional<TransposedIndices> transposed;
};

class Cache {
 public:
  // What is kept for this mask as it is now.
  std::optional<Kept> find(const OnDevice& device, const SparseProblem& problem) {
    const std::lock_guard lock(mutex_);
    const auto found = kept_.find(key(problem.mask));
    if (found == kept_.end()) return std::nullopt;
    const Kept& kept = found->second;
    const bool same = !kept.storage.expired() && kept.version == version(problem.mask) &&
                      kept.stream == device.stream() && kept.cols == problem.pattern.cols &&
                      kept.n == problem.pattern.nnz;
    return same ? std::optional(kept) : std::nullopt;
  }

  void keep(const OnDevice& device, const SparseProblem& problem, CsrIndices csr,
            std::optional<TransposedIndices> transposed) {
    if (problem.mask.is_inference()) return;  // it has no version: nobody could say when it changes
    const std::lock_guard lock(mutex_);
    std::erase_if(kept_, [](const auto& entry) { return entry.second.storage.expired(); });
    kept_.insert_or_assign(
        key(problem.mask),
        Kept{problem.mask.storage().getWeakStorageImpl(), version(problem.mask), device.stream(),
             problem.pattern.cols, problem.pattern.nnz, std::move(csr), std::move(transposed)});
  }

 private:
  using Key = std::pair<const c10::StorageImpl*, int64_t>;
  static Key key(const Tensor& mask) {
    return {mask.storage().unsafeGetStorageImpl(), mask.storage_offset()};
  }
  // Written by every in-place operation, topology_commit_ included.
  static uint32_t version(const Tensor& mask) {
    return mask.is_inference() ? 0 : mask.unsafeGetTensorImpl()->version_counter().current_version();
  }

  std::mutex mutex_;
  std::map<Key, Kept> kept_;
};

Cache& cache() {
  static auto* const all = new Cache;  // never destroyed: its tensors must not outlive the device's context
  return *all;
}

Tensor int32_range(int64_t end, const Tensor& like) {
  return at::arange(end, like.options().dtype(at::kInt));
}

// For every i in [0, n): how many of the sorted entries are below i, or, with `right`, not above it.
Tensor count_below(const Tensor& sorted, int64_t n, bool right) {
  return at::searchsorted(sorted, int32_range(n, sorted), /*out_int32=*/true, right);
}

CsrIndices derive(const OnDevice& device, const SparseProblem& problem) {
  const auto& pattern = problem.pattern;
  const Tensor end = at::full({1}, pattern.nnz, problem.rank.options());
  const Tensor columns = at::empty({pattern.nnz}, problem.rank.options());
  check_status(kernels::cuda::csr_columns(device.stream(), {pattern, columns.mutable_data_ptr<int32_t>()}),
               "sparse_linear");
  return {at::cat({problem.rank.select(1, 0), end}), columns};
}

// A stable sort by column leaves the rows ascending within each.
TransposedIndices transpose(const CsrIndices& csr, int64_t cols) {
  const int64_t n = csr.columns.size(0);
  const auto [columns, order] = at::sort(csr.columns, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Tensor row = count_below(csr.offsets, n, /*right=*/true).sub_(1);
  return {{count_below(columns, cols + 1, /*right=*/false), row.index_select(0, order)}, order.to(at::kInt)};
}

}  // namespace

CsrIndices csr_indices(const OnDevice& device, const SparseProblem& problem) {
  if (const auto kept = cache().find(device, problem)) return kept->csr;
  CsrIndices csr = derive(device, problem);
  cache().keep(device, problem, csr, std::nullopt);
  return csr;
}

TransposedIndices transposed_indices(const OnDevice& device, const SparseProblem& problem) {
  const auto kept = cache().find(device, problem);
  if (kept && kept->transposed) return *kept->transposed;
  const CsrIndices csr = kept ? kept->csr : derive(device, problem);
  TransposedIndices transposed = transpose(csr, problem.pattern.cols);
  cache().keep(device, problem, csr, transposed);
  return transposed;
}

}  // namespace smet::ops::cuda
