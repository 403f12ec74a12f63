// SPDX-License-Identifier: BSD-3-Clause
// Many tensors of very different size in one launch. Their descriptions travel as the kernel's parameter, so
// no copy to the device precedes it and a CUDA graph holds them.
#pragma once

#include "kernels/cuda/device.cuh"

namespace smet::kernels::cuda {

// The tensors of one launch, cut into chunks that are numbered through.
template <typename Item>
struct Batch {
  static constexpr std::size_t kParameterBytes = 4000;  // of the 4 KB that every driver accepts
  static constexpr int kCapacity =
      static_cast<int>((kParameterBytes - 16) / (sizeof(Item) + sizeof(unsigned)));

  int count = 0;
  unsigned end[kCapacity];  // end[i]: number of chunks of items 0 to i
  Item items[kCapacity];

  unsigned chunks() const { return count == 0 ? 0 : end[count - 1]; }
  void add(const Item& item, unsigned item_chunks) {
    end[count] = chunks() + item_chunks;
    items[count++] = item;
  }

  // The item that chunk number `chunk` belongs to; `chunk` becomes its number within the item.
  __device__ const Item& find(unsigned* chunk) const {
    int i = 0;
    while (*chunk >= end[i]) ++i;
    if (i > 0) *chunk -= end[i - 1];
    return items[i];
  }
};

// Adds items to a batch, and hands it to `launch` when it is full, or would need too many blocks, and at the
// end.
template <typename Item, typename Launch>
class Batches {
 public:
  explicit Batches(Launch launch) : launch_(launch) {}

  void add(const Item& item, std::int64_t item_chunks) {
    if (item_chunks == 0) return;
    if (batch_.count == Batch<Item>::kCapacity || batch_.chunks() + item_chunks > kMostChunks) flush();
    batch_.add(item, static_cast<unsigned>(item_chunks));
  }
  void flush() {
    if (batch_.count > 0) launch_(batch_);
    batch_.count = 0;
  }

 private:
  static constexpr std::int64_t kMostChunks = 0x7FFFFFFF;
  Launch launch_;
  Batch<Item> batch_;
};

}  // namespace smet::kernels::cuda
