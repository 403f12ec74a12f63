#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# address: the C++ tests, the torch-free and the torch-linked, under the address, undefined-behaviour and leak
# sanitizers (J1), 10,000 topology updates and a checkpoint written and read too (J3). thread: the kernels under
# the thread sanitizer (J2). Builds in build-asan, build-asan-torch and build-tsan; minutes, the first time half
# an hour. Usage: scripts/sanitize.sh [address|thread]; both by default
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

build() {  # FOLDER FLAGS OPTION TARGET...
  folder=$1 flags=$2 option=$3
  shift 3
  # Not -Werror: instrumented code leads GCC's flow warnings astray.
  cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSMET_WERROR=OFF "$option" \
    -DSMET_BUILD_PYTHON=OFF -DSMET_BUILD_TESTS=ON -DPython_EXECUTABLE="$PWD/.venv/bin/python" \
    -DCMAKE_CXX_FLAGS="$flags -fno-omit-frame-pointer" --no-warn-unused-cli >/dev/null
  cmake --build "$folder" -j "${JOBS:-2}" --target "$@" >"$folder/build.log" || { tail -30 "$folder/build.log"; exit 1; }
}

address() {
  # torch is not instrumented: its objects have no type information that the vptr check could read.
  flags="-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all"
  build build-asan "$flags" -DSMET_KERNELS_ONLY=ON smet_kernel_tests
  build-asan/tests/cpp/kernels/smet_kernel_tests --gtest_brief=1
  torch_tests="smet_executor_tests smet_nn_tests smet_optim_tests smet_sparsify_tests smet_topology_tests"
  build build-asan-torch "$flags" -DSMET_KERNELS_ONLY=OFF $torch_tests updates_run checkpoint_run
  cd build-asan-torch/tests/cpp
  for program in $torch_tests; do ./"$program" --gtest_brief=1; done
  ./updates_run 10000
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
  ./checkpoint_run "$(./checkpoint_run - 7 "$out/first" fp32)" 7 "$out/second" fp32
}

thread() {
  build build-tsan "-fsanitize=thread" -DSMET_KERNELS_ONLY=ON smet_kernel_tests
  build-tsan/tests/cpp/kernels/smet_kernel_tests --gtest_brief=1
}

export UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
case ${1:-both} in
  address | thread) "$1" ;;
  both) (address) && (thread) ;;
  *) sed -n 3,6p "$0" >&2; exit 2 ;;
esac
