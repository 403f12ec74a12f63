// SPDX-License-Identifier: BSD-3-Clause
// The k first of many items in a total order, without sorting them and without asking the host: from the top
// digit down, count the items' digits, find the digit in which the k-th falls, and go on among the items that
// share it. Items are compared by two unsigned numbers, (key, index); no two are equal, so "the k first" is
// one set, whatever the order in which threads count. Integer counts make it deterministic.
#pragma once

#include <bit>

#include "kernels/cuda/scan.cuh"

namespace smet::kernels::cuda {

struct SelectItem {
  std::uint64_t key, index;
};

// One digit, and the scratch of a selection (device memory).
struct Digit {
  bool of_index;  // else of the key
  int shift, bits;
};
inline constexpr int kDigitBits = 11;
inline constexpr int kDigitBins = 1 << kDigitBits;
inline constexpr int kSelectThreads = 256;
inline constexpr int kBinsPerThread = kDigitBins / kSelectThreads;

struct Selection {
  SelectItem last;        // the last item taken, as far as its digits are settled; then ones
  std::uint64_t left;     // to be taken among the items that agree with the settled digits
  std::uint32_t none;     // k = 0
  std::uint32_t settled;  // `last` is final
  std::uint32_t bins[kDigitBins];

  __device__ bool takes(const SelectItem& item) const {
    if (none != 0) return false;
    return item.key != last.key ? item.key < last.key : item.index <= last.index;
  }
};

__device__ __forceinline__ std::uint64_t shifted_right(std::uint64_t x, int shift) {
  return shift < 64 ? x >> shift : 0;
}

// Whether the digits above `digit` are those of `last`.
__device__ __forceinline__ bool agrees(const SelectItem& item, const SelectItem& last, const Digit& digit) {
  const int above = digit.shift + digit.bits;
  if (!digit.of_index) return shifted_right(item.key, above) == shifted_right(last.key, above);
  return item.key == last.key && shifted_right(item.index, above) == shifted_right(last.index, above);
}

// Begins a selection of k items; by one block.
__device__ __forceinline__ void begin_selection(Selection* selection, std::uint64_t k) {
  for (int bin = static_cast<int>(threadIdx.x); bin < kDigitBins; bin += kSelectThreads)
    selection->bins[bin] = 0;
  if (threadIdx.x != 0) return;
  selection->last = {0, 0};
  selection->left = k;
  selection->none = k == 0 ? 1 : 0;
  selection->settled = k == 0 ? 1 : 0;
}

static __global__ void __launch_bounds__(kSelectThreads)
    begin_select_kernel(Selection* selection, std::uint64_t k) {
  begin_selection(selection, k);
}

// Counts the digits of the items that are still in question. Source: items(), the number of items, and
// item(i).
template <typename Source>
__global__ void __launch_bounds__(kSelectThreads)
    count_digits_kernel(const Source source, Selection* selection, const Digit digit) {
  SMET_SHARED(std::uint32_t, bins, [kDigitBins]);
  if (selection->settled != 0) return;  // so do all threads
  for (int bin = static_cast<int>(threadIdx.x); bin < kDigitBins; bin += kSelectThreads) bins[bin] = 0;
  __syncthreads();
  const SelectItem last = selection->last;
  const std::int64_t count = source.items();
  for (std::int64_t i = global_thread(); i < count; i += all_threads()) {
    const SelectItem item = source.item(i);
    if (!agrees(item, last, digit)) continue;
    const std::uint64_t number = digit.of_index ? item.index : item.key;
    atomicAdd(&bins[(number >> digit.shift) & ((1U << digit.bits) - 1U)], 1U);
  }
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < kDigitBins; bin += kSelectThreads) {
    if (bins[bin] != 0) atomicAdd(&selection->bins[bin], bins[bin]);
  }
}

// The k-th falls in `bin`, after `before` others.
__device__ __forceinline__ void settle(Selection* selection, const Digit& digit, int bin,
                                       std::uint64_t before, std::uint32_t in_bin, bool last_digit) {
  selection->left -= before;
  const std::uint64_t value = static_cast<std::uint64_t>(bin) << digit.shift;
  const std::uint64_t ones = (std::uint64_t{1} << digit.shift) - 1;
  const bool whole_bin = selection->left == in_bin;  // no need to look into it
  SelectItem& last = selection->last;
  (digit.of_index ? last.index : last.key) |= whole_bin ? value | ones : value;
  if (whole_bin && !digit.of_index) last.index = ~std::uint64_t{0};
  if (whole_bin || last_digit) selection->settled = 1;
}

// One block. Leaves the bins empty for the next digit.
static __global__ void __launch_bounds__(kSelectThreads)
    settle_digit_kernel(Selection* selection, const Digit digit, bool last_digit) {
  SMET_SHARED(std::uint64_t, warps, [kSelectThreads / kWarp]);
  if (selection->settled != 0) return;  // so do all threads
  const std::uint64_t left = selection->left;
  const int first = static_cast<int>(threadIdx.x) * kBinsPerThread;
  std::uint64_t sum = 0;
  for (int i = 0; i < kBinsPerThread; ++i) sum += selection->bins[first + i];
  std::uint64_t total;
  std::uint64_t before = block_exclusive_sum<kSelectThreads>(sum, warps, &total);
  // The barriers of that sum stand between every read of `settled` and `left` and the one thread's writes.
  if (before < left && left <= before + sum) {
    int bin = first;
    while (before + selection->bins[bin] < left) before += selection->bins[bin++];
    settle(selection, digit, bin, before, selection->bins[bin], last_digit);
  }
  for (int i = 0; i < kBinsPerThread; ++i) selection->bins[first + i] = 0;
}

// The digits of a selection that has begun. The source's keys have `key_bits` bits, its indices are below
// `index_end`; `most_items` bounds source.items().
template <typename Source>
void select_digits(Launches& launches, const Source& source, std::int64_t most_items, int key_bits,
                   std::int64_t index_end, Selection* selection) {
  constexpr std::int64_t kItemsPerBlock = 16 * kSelectThreads;
  const int index_bits = std::bit_width(static_cast<std::uint64_t>(index_end));
  for (const bool of_index : {false, true}) {
    for (int above = of_index ? index_bits : key_bits; above > 0; above -= kDigitBits) {
      const int bits = std::min(above, kDigitBits);
      const Digit digit = {of_index, above - bits, bits};
      launches(striding_blocks(most_items, kItemsPerBlock), kSelectThreads, count_digits_kernel<Source>,
               source, selection, digit);
      launches(1, kSelectThreads, settle_digit_kernel, selection, digit, of_index && digit.shift == 0);
    }
  }
}

// Finds the k first of a source. k is at most the number of items.
template <typename Source>
void radix_select(Launches& launches, const Source& source, std::int64_t most_items, std::int64_t k,
                  int key_bits, std::int64_t index_end, Selection* selection) {
  launches(1, kSelectThreads, begin_select_kernel, selection, static_cast<std::uint64_t>(k));
  select_digits(launches, source, most_items, key_bits, index_end, selection);
}

}  // namespace smet::kernels::cuda
