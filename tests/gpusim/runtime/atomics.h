// SPDX-License-Identifier: BSD-3-Clause
// CUDA's atomics, relaxed as CUDA's are: they create no order between other accesses, for the race check
// either.
#pragma once

#include <concepts>
#include <type_traits>

namespace gpusim {

// Lets other threads run here when the schedule is random.
void yield_after_atomic();

template <typename T>
concept Integer32 = std::same_as<T, int> || std::same_as<T, unsigned>;
template <typename T>
concept Integer = Integer32<T> || std::same_as<T, unsigned long long>;
template <typename T>
concept Ordered = Integer<T> || std::same_as<T, long long>;
template <typename T>
concept Addable = Integer<T> || std::same_as<T, float> || std::same_as<T, double>;
template <typename T>
concept Swappable = Integer<T> || std::same_as<T, float>;

template <typename T, typename Update>
T atomic_update(T* address, const Update& update) {
  using Bits = std::conditional_t<sizeof(T) == 4, unsigned, unsigned long long>;
  auto* word = reinterpret_cast<Bits*>(address);
  Bits old_bits = __atomic_load_n(word, __ATOMIC_RELAXED);
  T old_value;
  Bits new_bits;
  do {
    __builtin_memcpy(&old_value, &old_bits, sizeof(T));
    const T new_value = update(old_value);
    __builtin_memcpy(&new_bits, &new_value, sizeof(T));
  } while (
      !__atomic_compare_exchange_n(word, &old_bits, new_bits, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  yield_after_atomic();
  return old_value;
}

}  // namespace gpusim

// std::type_identity_t: the pointer decides the type, the operand converts to it.
template <gpusim::Addable T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  // Unsigned: CUDA's integers wrap.
  if constexpr (std::same_as<T, int>) {
    return gpusim::atomic_update(address, [=](T old) {
      return static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value));
    });
  } else {
    return gpusim::atomic_update(address, [=](T old) { return old + value; });
  }
}
template <gpusim::Integer32 T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return gpusim::atomic_update(address, [=](T old) {
    return static_cast<T>(static_cast<unsigned>(old) - static_cast<unsigned>(value));
  });
}
template <gpusim::Ordered T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return gpusim::atomic_update(address, [=](T old) { return value < old ? value : old; });
}
template <gpusim::Ordered T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return gpusim::atomic_update(address, [=](T old) { return old < value ? value : old; });
}
template <gpusim::Swappable T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return gpusim::atomic_update(address, [=](T) { return value; });
}
template <gpusim::Integer T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return gpusim::atomic_update(address, [=](T old) { return old == expected ? value : old; });
}
template <gpusim::Integer T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return gpusim::atomic_update(address, [=](T old) { return old & value; });
}
template <gpusim::Integer T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return gpusim::atomic_update(address, [=](T old) { return old | value; });
}
template <gpusim::Integer T>
T atomicXor(T* address, std::type_identity_t<T> value) {
  return gpusim::atomic_update(address, [=](T old) { return old ^ value; });
}
