// SPDX-License-Identifier: BSD-3-Clause
// adamw_step: a block per chunk of a tensor; every thread takes four elements at a time (one of fp64, two
// with bf16 moments). The cohort table lies in shared memory. Templates over the moments' format serve
// adamw_compact too.
#pragma once

#include "kernels/cuda/adamw_update.cuh"
#include "kernels/cuda/batch.cuh"

namespace smet::kernels::cuda {

inline constexpr int kStepThreads = 256;
// Elements of one chunk: eight rounds of every thread.
template <typename Moments>
inline constexpr std::int64_t kStepChunk = 8LL * kStepThreads* Moments::kElements;
// Blocks per multiprocessor that leave the registers which division and root need: with fewer registers, or
// with the compiler's own choice, they spill on sm_100 and sm_120.
template <typename Compute>
inline constexpr int kStepBlocks = sizeof(Compute) == 4 ? 4 : 3;

// How moments are stored: as they are computed, or as bf16 with random rounding. kElements: of a thread and
// round.
template <typename Type>
struct FullMoments {
  using Compute = typename Type::Compute;
  using Storage = Compute;
  static constexpr int kElements = sizeof(Compute) == 4 ? 4 : 1;  // two of fp64 would need 72 registers
  __device__ static Compute load(Storage x) { return x; }
  __device__ static void store(Compute m, Compute v, RunHash /*hash*/, int /*lane*/, Storage* m_to,
                               Storage* v_to) {
    *m_to = m;
    *v_to = v;
  }
};
struct Bf16Moments {
  using Storage = std::uint16_t;
  static constexpr int kElements = 2;  // four would spill on sm_100 and sm_120
  __device__ static float load(Storage x) { return bf16_to_f32(x); }
  __device__ static void store(float m, float v, RunHash hash, int lane, Storage* m_to, Storage* v_to) {
    const std::uint32_t noise = hash32(hash, lane);
    *m_to = stochastic_bf16(m, noise);
    *v_to = stochastic_bf16(v, noise >> 16);
    if (v > 0 && *v_to == 0) *v_to = 1;
  }
};

template <typename Compute>
struct StepItem {
  void* param;
  const void* grad;
  void* exp_avg;
  void* exp_avg_sq;
  std::int16_t* master_low;  // null: none
  const std::uint8_t* cohort;
  const CohortRow* cohorts;
  std::int64_t size;
  StepKeys keys;
  const StepKeys* device_keys;  // null: `keys`
  StepScalars<Compute> scalars;
  int cohort_rows;
  Rounding rounding;
  bool vectors;  // all six are aligned for vectors of kElements
};

template <typename Type, typename Moments>
StepItem<typename Type::Compute> step_item(const AdamWTensor& tensor, std::uint64_t moment_key) {
  using Compute = typename Type::Compute;
  constexpr int kCount = Moments::kElements;
  using Some = Vector<typename Type::Storage, kCount>;
  using SomeMoments = Vector<typename Moments::Storage, kCount>;
  return {.param = tensor.param,
          .grad = tensor.grad,
          .exp_avg = tensor.exp_avg,
          .exp_avg_sq = tensor.exp_avg_sq,
          .master_low = tensor.master_low,
          .cohort = tensor.cohort,
          .cohorts = tensor.cohorts,
          .size = tensor.size,
          .keys = {tensor.rounding_key, moment_key},
          .device_keys = tensor.device_keys,
          .scalars = StepScalars<Compute>::of(tensor),
          .cohort_rows = tensor.cohort == nullptr ? 1 : static_cast<int>(tensor.cohort_rows),
          .rounding = tensor.master_low != nullptr ? Rounding::master
                      : tensor.stochastic_rounding ? Rounding::stochastic
                                                   : Rounding::nearest,
          .vectors = aligned_for<Some>(tensor.param) && aligned_for<Some>(tensor.grad) &&
                     aligned_for<SomeMoments>(tensor.exp_avg) &&
                     aligned_for<SomeMoments>(tensor.exp_avg_sq) &&
                     aligned_for<Vector<std::int16_t, kCount>>(tensor.master_low) &&
                     aligned_for<Vector<std::uint8_t, kCount>>(tensor.cohort)};
}

// Which of a thread's elements i to i + N are in [first, last): `begin` to `end` of them; `whole`: all N, at
// an address aligned for a vector.
struct Part {
  int begin, end;
  bool whole;

  template <int N>
  __device__ static Part of(std::int64_t i, std::int64_t first, std::int64_t last, bool vectors) {
    const int begin = i < first ? static_cast<int>(first - i) : 0;
    const int end = i + N > last ? static_cast<int>(last - i) : N;
    return {begin, end, vectors && begin == 0 && end == N};
  }
  __device__ bool has(int e) const { return e >= begin && e < end; }
};

template <int N, typename T>
__device__ __forceinline__ Vector<T, N> load_part(const T* p, std::int64_t i, const Part& part) {
  if (part.whole) return *reinterpret_cast<const Vector<T, N>*>(p + i);
  Vector<T, N> x{};
  for (int e = 0; e < N; ++e) {
    if (part.has(e)) x.at[e] = p[i + e];
  }
  return x;
}

template <int N, typename T>
__device__ __forceinline__ void store_part(T* p, std::int64_t i, const Part& part, const Vector<T, N>& x) {
  if (part.whole) {
    store_whole(p + i, x);
    return;
  }
  for (int e = 0; e < N; ++e) {
    if (part.has(e)) p[i + e] = x.at[e];
  }
}

// The masters' low halves of a thread's elements; 0 where there are none.
template <typename Type, int N>
__device__ __forceinline__ Vector<std::int16_t, N> load_low(const StepItem<typename Type::Compute>& item,
                                                            std::int64_t i, const Part& part) {
  if constexpr (std::is_same_v<Type, Bf16>) {
    const std::int16_t* low = item.master_low;
    if (low != nullptr) return load_part<N>(low, i, part);
  }
  return {};
}

template <typename Type, int N>
__device__ __forceinline__ void store_low(const StepItem<typename Type::Compute>& item, std::int64_t i,
                                          const Part& part, const Vector<std::int16_t, N>& low) {
  if constexpr (std::is_same_v<Type, Bf16>) {
    if (item.master_low != nullptr) store_part(item.master_low, i, part, low);
  }
}

template <typename Type, typename Moments>
__device__ __forceinline__ void step_some(const StepItem<typename Type::Compute>& item,
                                          const StepRow<typename Type::Compute>* rows, const StepKeys& keys,
                                          const float* scale, std::int64_t i, std::int64_t end) {
  using Storage = typename Type::Storage;
  using Compute = typename Type::Compute;
  using Moment = typename Moments::Storage;
  auto* param = static_cast<Storage*>(item.param);
  auto* exp_avg = static_cast<Moment*>(item.exp_avg);
  auto* exp_avg_sq = static_cast<Moment*>(item.exp_avg_sq);
  constexpr int kCount = Moments::kElements;
  const Part part = Part::of<kCount>(i, i, end, item.vectors);  // a chunk begins at a multiple of kCount

  auto p = load_part<kCount>(param, i, part);
  const auto g = load_part<kCount>(static_cast<const Storage*>(item.grad), i, part);
  auto m = load_part<kCount>(exp_avg, i, part);
  auto v = load_part<kCount>(exp_avg_sq, i, part);
  auto low = load_low<Type, kCount>(item, i, part);
  Vector<std::uint8_t, kCount> ids{};
  if (item.cohort != nullptr) ids = load_part<kCount>(item.cohort, i, part);
  const RunHash moments_hash = hash32_run(keys.moments, static_cast<std::uint64_t>(i));
  const RunHash rounding_hash = hash32_run(keys.rounding, static_cast<std::uint64_t>(i));
  for (int e = 0; e < kCount; ++e) {
    const Compute x = weight_of<Type>(p.at[e], low.at[e]);
    const Compute grad = effective_grad<Compute>(Type::load(g.at[e]), x, scale, item.scalars);
    Compute new_m = Moments::load(m.at[e]);
    Compute new_v = Moments::load(v.at[e]);
    update_moments(grad, item.scalars, &new_m, &new_v);
    const Compute result = updated_param(x, new_m, square_root(new_v), rows[ids.at[e]], item.scalars);
    Moments::store(new_m, new_v, moments_hash, e, &m.at[e], &v.at[e]);
    p.at[e] = stored_param<Type>(result, item.rounding, rounding_hash, e, &low.at[e]);
  }
  store_part(param, i, part, p);
  store_low<Type>(item, i, part, low);
  store_part(exp_avg, i, part, m);
  store_part(exp_avg_sq, i, part, v);
}

template <typename Type, typename Moments>
__global__ void __launch_bounds__(kStepThreads, kStepBlocks<typename Type::Compute>)
    adamw_step_kernel(const Batch<StepItem<typename Type::Compute>> batch, const StepControl control) {
  using Compute = typename Type::Compute;
  SMET_SHARED(StepRow<Compute>, rows, [kMaxCohorts]);
  SMET_SHARED(StepKeys, keys, [1]);
  // The same for every thread of the grid, so nobody waits at the barrier for those that leave.
  if (control.found_inf != nullptr && *control.found_inf != 0) return;

  unsigned chunk = blockIdx.x;
  const StepItem<Compute>& item = batch.find(&chunk);
  if (threadIdx.x == 0) keys[0] = item.device_keys == nullptr ? item.keys : *item.device_keys;
  load_rows(item.cohorts, item.cohort_rows, rows);  // and a barrier
  constexpr int kCount = Moments::kElements;
  constexpr std::int64_t kChunk = kStepChunk<Moments>;
  const std::int64_t begin = chunk * kChunk;
  const std::int64_t end = item.size - begin < kChunk ? item.size : begin + kChunk;
  for (std::int64_t i = begin + std::int64_t{threadIdx.x} * kCount; i < end; i += kStepThreads * kCount) {
    step_some<Type, Moments>(item, rows, keys[0], control.grad_scale, i, end);
  }
}

struct FiniteItem {
  const void* data;
  std::int64_t size;
  std::int64_t index;
};
inline constexpr std::int64_t kFiniteChunk = 16384;

// Lowers *first, as an unsigned number, to the index of every item that holds NaN or infinity.
template <typename Type>
__global__ void __launch_bounds__(kStepThreads)
    first_nonfinite_kernel(const Batch<FiniteItem> batch, std::int64_t* first) {
  unsigned chunk = blockIdx.x;
  const FiniteItem& item = batch.find(&chunk);
  const auto* data = static_cast<const typename Type::Storage*>(item.data);
  const std::int64_t begin = chunk * kFiniteChunk;
  const std::int64_t end = item.size - begin < kFiniteChunk ? item.size : begin + kFiniteChunk;
  int bad = 0;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kStepThreads) {
    const auto x = Type::load(data[i]);
    bad |= static_cast<int>(x - x != 0);  // NaN or infinity less itself is NaN
  }
  bad = __syncthreads_or(bad);
  if (bad != 0 && threadIdx.x == 0) {
    atomicMin(reinterpret_cast<unsigned long long*>(first), static_cast<unsigned long long>(item.index));
  }
}

}  // namespace smet::kernels::cuda
