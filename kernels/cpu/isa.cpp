// SPDX-License-Identifier: BSD-3-Clause
#include "kernels/isa.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "kernels/cpu/isa_kernels.h"

namespace smet::kernels {
namespace {

struct Choice {
  std::atomic<const cpu::IsaKernels*> kernels{nullptr};
  std::string error;
};

const cpu::IsaKernels* table(Isa isa) {
  switch (isa) {
    case Isa::baseline:
      return &cpu::baseline::kKernels;
#ifdef SMET_X86_64
    case Isa::avx2:
      return &cpu::avx2::kKernels;
    case Isa::avx512:
      return &cpu::avx512::kKernels;
#endif
    default:
      return nullptr;
  }
}

Isa best_isa() {
  for (const Isa isa : {Isa::avx512, Isa::avx2}) {
    if (has_isa(isa)) return isa;
  }
  return Isa::baseline;
}

Choice& choice() {
  static Choice chosen;
  static const bool once = [] {
    const char* wanted = std::getenv("SMET_ISA");
    if (wanted == nullptr || *wanted == '\0') {
      chosen.kernels = table(best_isa());
      return true;
    }
    const std::string name = wanted;
    for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
      if (table(isa) == nullptr || name != table(isa)->name) continue;
      if (has_isa(isa)) {
        chosen.kernels = table(isa);
      } else {
        chosen.error = "SMET_ISA=" + name + ", but this machine does not have it; unset SMET_ISA";
      }
      return true;
    }
    chosen.error = "SMET_ISA=" + name + " is unknown; expected baseline, avx2 or avx512, or unset SMET_ISA";
    return true;
  }();
  (void)once;
  return chosen;
}

}  // namespace

bool has_isa(Isa isa) {
  if (table(isa) == nullptr) return false;
#ifdef SMET_X86_64
  const bool bits = __builtin_cpu_supports("popcnt") != 0 && __builtin_cpu_supports("bmi2") != 0 &&
                    __builtin_cpu_supports("fma") != 0;
  if (isa == Isa::avx2) return bits && __builtin_cpu_supports("avx2") != 0;
  // VBMI2 marks the generation (Ice Lake, Zen 4) from which on 512-bit vectors do not lower the clock to
  // speak of. tile_spmm is faster with them wherever it was measured: 3 to 20 % on a Zen 4, 30 to 60 % on a
  // Sapphire Rapids.
  if (isa == Isa::avx512) {
    return bits && __builtin_cpu_supports("avx512vbmi2") != 0 && __builtin_cpu_supports("avx512f") != 0 &&
           __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
           __builtin_cpu_supports("avx512vl") != 0;
  }
#endif
  return true;
}

Status use_isa(Isa isa) {
  if (!has_isa(isa)) return Status::unsupported_isa;
  choice().kernels = table(isa);
  return Status::ok;
}

const char* active_isa() {
  const cpu::IsaKernels* kernels = choice().kernels;
  return kernels == nullptr ? "none" : kernels->name;
}

const char* isa_error() {
  const Choice& chosen = choice();
  return chosen.kernels == nullptr ? chosen.error.c_str() : nullptr;
}

const cpu::IsaKernels* cpu::isa_kernels() {
  return choice().kernels;
}

}  // namespace smet::kernels
