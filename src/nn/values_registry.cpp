// SPDX-License-Identifier: BSD-3-Clause
#include "smet/values_registry.h"

#include <mutex>
#include <unordered_map>
#include <utility>

namespace smet {
namespace {

using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

struct Entry {
  WeakTensor tensor;  // also keeps the address from being reused while the entry stands
  ValuesInfo info;    // without its rank
  WeakTensor rank;
};

struct Registry {
  std::mutex mutex;
  std::unordered_map<const c10::TensorImpl*, Entry> entries;
  std::size_t purge_at = 64;

  // Dropping the dead is amortised: the threshold doubles with what survives.
  void purge_when_full() {
    if (entries.size() < purge_at) return;
    std::erase_if(entries, [](const auto& item) { return item.second.tensor.expired(); });
    purge_at = std::max<std::size_t>(64, 2 * entries.size());
  }
};

Registry& registry() {
  static Registry* const instance = new Registry;  // never destroyed: tensors may outlive static objects
  return *instance;
}

}  // namespace

void register_values(const at::Tensor& values, std::int64_t out_features, std::int64_t in_features,
                     std::string name, const at::Tensor& rank) {
  TORCH_CHECK_VALUE(values.defined() && values.dim() == 1, "smet: layer '", name,
                    "': values must be a 1-D tensor, got ",
                    values.defined() ? std::to_string(values.dim()) + " dimensions" : "an undefined tensor");
  TORCH_CHECK_VALUE(out_features >= 0 && in_features >= 0, "smet: layer '", name, "': shape [", out_features,
                    ", ", in_features, "]; expected sizes >= 0");
  TORCH_CHECK_VALUE(static_cast<double>(values.numel()) <=
                        static_cast<double>(out_features) * static_cast<double>(in_features),
                    "smet: layer '", name, "': ", values.numel(), " values do not fit [", out_features, ", ",
                    in_features, "]");
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.purge_when_full();
  all.entries.insert_or_assign(values.unsafeGetTensorImpl(),
                               Entry{WeakTensor(values.getIntrusivePtr()),
                                     {out_features, in_features, std::move(name), {}},
                                     WeakTensor(rank.getIntrusivePtr())});
}

std::optional<ValuesInfo> values_info(const at::Tensor& values) {
  if (!values.defined()) return std::nullopt;
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.entries.find(values.unsafeGetTensorImpl());
  if (found == all.entries.end() || found->second.tensor.expired()) return std::nullopt;
  ValuesInfo info = found->second.info;
  if (auto rank = found->second.rank.lock(); rank.defined()) info.rank = at::Tensor(std::move(rank));
  return info;
}

}  // namespace smet
