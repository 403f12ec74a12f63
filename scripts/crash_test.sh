#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Kills a training run with SIGKILL at every call that writes a checkpoint and at random times, fills the disk,
# and resumes: tests/faults/crash_test.py. Usage: scripts/crash_test.sh [--random KILLS] [--seed N]
set -eu
cd "$(dirname "$0")/.."
shim=$(mktemp -d)
trap 'rm -rf "$shim"' EXIT
"${CC:-cc}" -shared -fPIC -O1 -Wall -Wextra -Werror -o "$shim/fault_shim.so" tests/faults/fault_shim.c -ldl
OMP_NUM_THREADS=1 LD_PRELOAD="$shim/fault_shim.so" .venv/bin/python tests/faults/crash_test.py "$@"
