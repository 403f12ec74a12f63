#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# The kernel tests on AArch64, under qemu's user mode. Usage: scripts/test_aarch64.sh [gtest filter]
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$tool" >/dev/null || {
    echo "smet: no '$tool'; install it: apt-get install g++-aarch64-linux-gnu qemu-user" >&2
    exit 1
  }
done
cmake -S . -B build-aarch64 -G Ninja -DCMAKE_BUILD_TYPE=Release -DSMET_KERNELS_ONLY=ON \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ >/dev/null
cmake --build build-aarch64 --target smet_kernel_tests -j "${JOBS:-2}"
# The death tests start their own file again, which only the machine that it is built for can do.
qemu-aarch64 -L /usr/aarch64-linux-gnu build-aarch64/tests/cpp/kernels/smet_kernel_tests --gtest_brief=1 \
  --gtest_filter="${1:--IsaDeathTest.*}"
