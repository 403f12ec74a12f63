// SPDX-License-Identifier: BSD-3-Clause
// adamw_step: a block per chunk of a tensor; every thread takes four elements at a time (one of fp64). The
// cohort table lies in shared memory. Templates over the moments' format serve adamw_compact too.
#pragma once

#include "kernels/cuda/adamw_update.cuh"
#include "kernels/cuda/batch.cuh"

namespace smet::kernels::cuda {

inline constexpr int kStepThreads = 256;
// Per thread and round. Two of fp64 would need 72 registers.
template <typename Compute>
inline constexpr int kStepElements = sizeof(Compute) == 4 ? 4 : 1;
template <typename Compute>
inline constexpr std::int64_t kStepChunk = 8LL * kStepThreads* kStepElements<Compute>;
// Blocks per multiprocessor that leave the registers which division and root need: with fewer registers, or
// with the compiler's own choice, they spill on sm_100 and sm_120.
template <typename Compute>
inline constexpr int kStepBlocks = sizeof(Compute) == 4 ? 4 : 3;
inline constexpr int kMaxCohorts = 256;

// How moments are stored: as they are computed, or as bf16 with random rounding.
template <typename Type>
struct FullMoments {
  using Compute = typename Type::Compute;
  using Storage = Compute;
  __device__ static Compute load(Storage x) { return x; }
  __device__ static void store(Compute m, Compute v, std::uint64_t /*key*/, std::int64_t /*i*/, Storage* m_to,
                               Storage* v_to) {
    *m_to = m;
    *v_to = v;
  }
};
template <typename Type>
struct Bf16Moments {
  using Storage = std::uint16_t;
  __device__ static float load(Storage x) { return bf16_to_f32(x); }
  __device__ static void store(float m, float v, std::uint64_t key, std::int64_t i, Storage* m_to,
                               Storage* v_to) {
    const std::uint32_t noise = hash32(key, static_cast<std::uint64_t>(i));
    *m_to = stochastic_bf16(m, noise);
    *v_to = stochastic_bf16(v, noise >> 16);
  }
};

template <typename Compute>
struct StepItem {
  void* param;
  const void* grad;
  void* exp_avg;
  void* exp_avg_sq;
  const std::uint8_t* cohort;
  const CohortRow* cohorts;
  std::int64_t size;
  std::uint64_t rounding_key, moment_key;
  StepScalars<Compute> scalars;
  int cohort_rows;
  bool stochastic_rounding;
  bool vectors;  // all five are aligned for vectors of kStepElements
};

// Elements [i, i + count) of p, count <= N; `whole`: N of them, and aligned.
template <int N, typename T>
__device__ __forceinline__ Vector<T, N> load_some(const T* p, std::int64_t i, int count, bool whole) {
  if (whole) return *reinterpret_cast<const Vector<T, N>*>(p + i);
  Vector<T, N> x{};
  for (int e = 0; e < N; ++e) {
    if (e < count) x.at[e] = p[i + e];
  }
  return x;
}

template <int N, typename T>
__device__ __forceinline__ void store_some(T* p, std::int64_t i, int count, bool whole,
                                           const Vector<T, N>& x) {
  if (whole) {
    *reinterpret_cast<Vector<T, N>*>(p + i) = x;
    return;
  }
  for (int e = 0; e < N; ++e) {
    if (e < count) p[i + e] = x.at[e];
  }
}

template <typename Type, typename Moments>
__device__ __forceinline__ void step_some(const StepItem<typename Type::Compute>& item,
                                          const StepRow<typename Type::Compute>* rows, const float* scale,
                                          std::int64_t i) {
  using Storage = typename Type::Storage;
  using Compute = typename Type::Compute;
  using Moment = typename Moments::Storage;
  auto* param = static_cast<Storage*>(item.param);
  auto* exp_avg = static_cast<Moment*>(item.exp_avg);
  auto* exp_avg_sq = static_cast<Moment*>(item.exp_avg_sq);
  constexpr int kCount = kStepElements<Compute>;
  const int count = item.size - i < kCount ? static_cast<int>(item.size - i) : kCount;
  const bool whole = item.vectors && count == kCount;

  auto p = load_some<kCount>(param, i, count, whole);
  const auto g = load_some<kCount>(static_cast<const Storage*>(item.grad), i, count, whole);
  auto m = load_some<kCount>(exp_avg, i, count, whole);
  auto v = load_some<kCount>(exp_avg_sq, i, count, whole);
  Vector<std::uint8_t, kCount> ids{};
  if (item.cohort != nullptr) ids = load_some<kCount>(item.cohort, i, count, whole);
  for (int e = 0; e < kCount; ++e) {
    const Compute x = Type::load(p.at[e]);
    const Compute grad = effective_grad<Compute>(Type::load(g.at[e]), x, scale, item.scalars);
    Compute new_m = Moments::load(m.at[e]);
    Compute new_v = Moments::load(v.at[e]);
    update_moments(grad, item.scalars, &new_m, &new_v);
    const Compute result = updated_param(x, new_m, square_root(new_v), rows[ids.at[e]], item.scalars);
    Moments::store(new_m, new_v, item.moment_key, i + e, &m.at[e], &v.at[e]);
    p.at[e] = stored_param<Type>(result, item.stochastic_rounding, item.rounding_key, i + e);
  }
  store_some(param, i, count, whole, p);
  store_some(exp_avg, i, count, whole, m);
  store_some(exp_avg_sq, i, count, whole, v);
}

template <typename Type, typename Moments>
__global__ void __launch_bounds__(kStepThreads, kStepBlocks<typename Type::Compute>)
    adamw_step_kernel(const Batch<StepItem<typename Type::Compute>> batch, const StepControl control) {
  using Compute = typename Type::Compute;
  SMET_SHARED(StepRow<Compute>, rows, [kMaxCohorts]);
  // The same for every thread of the grid, so nobody waits at the barrier for those that leave.
  if (control.found_inf != nullptr && *control.found_inf != 0) return;

  unsigned chunk = blockIdx.x;
  const StepItem<Compute>& item = batch.find(&chunk);
  load_rows(item.cohorts, item.cohort_rows, rows);
  constexpr int kCount = kStepElements<Compute>;
  constexpr std::int64_t kChunk = kStepChunk<Compute>;
  const std::int64_t begin = chunk * kChunk;
  const std::int64_t end = item.size - begin < kChunk ? item.size : begin + kChunk;
  for (std::int64_t i = begin + std::int64_t{threadIdx.x} * kCount; i < end; i += kStepThreads * kCount) {
    step_some<Type, Moments>(item, rows, control.grad_scale, i);
  }
}

struct FiniteItem {
  const void* data;
  std::int64_t size;
  std::int64_t index;
};
inline constexpr std::int64_t kFiniteChunk = 16384;

static __global__ void none_found_kernel(std::int64_t* first) {
  *first = -1;
}

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
