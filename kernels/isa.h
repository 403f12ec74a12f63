// SPDX-License-Identifier: BSD-3-Clause
// Which instruction set the cpu kernels run on. Chosen once, at the first kernel call: the best one that the
// machine has, or the one that the environment variable SMET_ISA names. Every choice gives the same bits, but
// for the products of sparse_linear.h, which sum in the set's own order.
#pragma once

#include "kernels/types.h"

namespace smet::kernels {

enum class Isa : std::uint8_t { baseline, avx2, avx512 };

// "baseline", "avx2" or "avx512"; "none" while isa_error() is not null.
const char* active_isa();

// Null, or why SMET_ISA cannot be honoured (an unknown name, or one that this machine lacks). While it is not
// null the cpu kernels return Status::unsupported_isa: running another set than the one asked for would be a
// silent repair.
const char* isa_error();

// Whether this machine and this build have the instruction set.
bool has_isa(Isa isa);

// Switches to `isa`; unsupported_isa, and no change, when !has_isa(isa). For tests and benchmarks: not to be
// called while a kernel runs.
Status use_isa(Isa isa);

}  // namespace smet::kernels
