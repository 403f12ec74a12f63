#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# The kernel tests under the address and undefined-behaviour sanitizers, then under the thread sanitizer (J1, J2).
# Builds the torch-free targets alone, in build-asan and build-tsan. Usage: scripts/sanitize.sh [gtest filter]
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
filter=${1:-*}

run() {
  build=$1 flags=$2
  # Not -Werror: instrumented code leads GCC's flow warnings astray.
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSMET_KERNELS_ONLY=ON -DSMET_WERROR=OFF \
    -DCMAKE_CXX_FLAGS="$flags -fno-omit-frame-pointer" >/dev/null
  cmake --build "$build" --target smet_kernel_tests -j "${JOBS:-2}"
  "$build/tests/cpp/kernels/smet_kernel_tests" --gtest_brief=1 --gtest_filter="$filter"
}

export UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
run build-asan "-fsanitize=address,undefined -fno-sanitize-recover=all"
run build-tsan "-fsanitize=thread"
