// SPDX-License-Identifier: BSD-3-Clause
// A stable counting sort in parallel, for items that are only known by number.
#pragma once

#include <utility>
#include <vector>

#include "kernels/types.h"

namespace smet::kernels::cpu {

// Calls write(i, at) once for each i in [0, n), where `at` counts [0, n) in the order of (bucket_of(i), i),
// and returns where every bucket begins, then n. bucket_of(i) < buckets is asked twice. Bounds of the work
// depend on n alone. Throws std::bad_alloc before anything is written.
template <typename BucketOf, typename Write>
std::vector<std::int64_t> distribute(const Executor& executor, std::int64_t n, std::size_t buckets,
                                     const BucketOf& bucket_of, const Write& write) {
  constexpr std::int64_t kSlices = 32;
  const auto begin = [n](std::int64_t slice) { return n * slice / kSlices; };
  std::vector<std::int64_t> counts(kSlices * buckets), first(buckets + 1);
  const auto of_slice = [&](std::int64_t slice) {
    return counts.data() + static_cast<std::size_t>(slice) * buckets;
  };
  for_chunks(executor, kSlices, [&](std::int64_t slice) {
    std::int64_t* count = of_slice(slice);
    for (std::int64_t i = begin(slice); i < begin(slice + 1); ++i) ++count[bucket_of(i)];
  });
  std::int64_t before = 0;
  for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
    first[bucket] = before;
    for (std::int64_t slice = 0; slice < kSlices; ++slice) {
      before += std::exchange(of_slice(slice)[bucket], before);  // a count becomes where its items go
    }
  }
  first[buckets] = before;
  for_chunks(executor, kSlices, [&](std::int64_t slice) {
    std::int64_t* next = of_slice(slice);
    for (std::int64_t i = begin(slice); i < begin(slice + 1); ++i) write(i, next[bucket_of(i)]++);
  });
  return first;
}

}  // namespace smet::kernels::cpu
