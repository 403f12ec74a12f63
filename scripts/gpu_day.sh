#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# The day there is a GPU: builds with CUDA, tests on the device, compute-sanitizer on the kernel tests, benchmarks,
# the demo; one report file. Needs nvcc 13 and libgtest-dev and, in the python that is found first, torch 2.11 or
# newer with CUDA 13, scikit-build-core, cmake, ninja, pytest, hypothesis, transformers, tokenizers and matplotlib.
# Downloads nothing. It has never run on a GPU.
# Exit code 0: everything passed; 1: a step failed (the report says which); 2: a tool is missing; 3: no GPU.
# Usage: scripts/gpu_day.sh [REPORT]
set -u
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
report=${1:-runs/gpu_day.txt}
venv="$PWD/build-cuda/venv"
kernel_tests=build-cuda/tests/gpusim/kernels/smet_cuda_kernel_tests

missing() { echo "smet: $1" >&2; exit 2; }
command -v python >/dev/null || missing "no python in PATH"
command -v nvcc >/dev/null || missing "no nvcc in PATH; install the CUDA toolkit 13.0, or put its bin folder into PATH"
python -c 'import torch; assert torch.version.cuda' 2>/dev/null || missing "no torch with CUDA in $(command -v python)"
modules="scikit_build_core cmake ninja pytest hypothesis transformers tokenizers matplotlib"
for module in $modules; do
  python -c "import importlib.util as u, sys; sys.exit(u.find_spec('$module') is None)" ||
    missing "$(command -v python) has no module $module; the script needs $modules"
done

mkdir -p "$(dirname "$report")" build-cuda
: >"$report"
failed=0
step() {  # NAME COMMAND...
  name=$1
  shift
  printf '\n== %s: %s\n' "$name" "$*" | tee -a "$report"
  "$@" 2>&1 | tee -a "$report"
  status=${PIPESTATUS[0]}
  [ "$status" = 0 ] || { echo "smet: FAILED ($status): $name" | tee -a "$report"; failed=1; }
  return "$status"
}

build_kernel_tests() {
  cmake -S . -B build-cuda -DSMET_BUILD_TESTS=ON >build-cuda/configure.log || { cat build-cuda/configure.log; return 1; }
  cmake --build build-cuda --target smet_cuda_kernel_tests
}

# A project outside the tree finds the installed CUDA package, links it and trains with it; without a GPU it ends
# with 3 and the error that a user would get.
consumer() {
  prefix=$(python -c 'import smet; print(smet.cmake_prefix_path)') &&
    cmake -S tests/consumer -B build-cuda/consumer -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$prefix" \
      -DPython_EXECUTABLE="$(command -v python)" >build-cuda/consumer.log &&
    cmake --build build-cuda/consumer && build-cuda/consumer/minimal || return 1
  build-cuda/consumer/device
  [ $? = "$1" ]
}

# A venv of its own that sees this python's packages but not what they load at start: an editable smet would hide
# the one built here.
python -m venv --without-pip "$venv" || exit 1
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
python -c 'import sys; print("\n".join(path for path in sys.path if path.endswith("-packages")))' >"$site/packages.pth"
PATH="$venv/bin:$PATH"

step build python -m pip --disable-pip-version-check install --quiet --no-index --no-build-isolation --no-deps \
  --upgrade --target "$site" -C build-dir=build-cuda -C cmake.define.SMET_CUDA=ON . || exit 1
step kernel-tests-build build_kernel_tests || exit 1
step info python -c 'import smet; smet.info()' || exit 1
if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  step consumer consumer 3 || exit 1
  echo "smet: built with CUDA, but torch sees no GPU on this machine: nothing was run on a device" | tee -a "$report" >&2
  exit 3
fi

step device nvidia-smi
step consumer consumer 0
step kernel-tests "$kernel_tests" --gtest_brief=1
step tests python -m pytest -q tests/python -m "cuda or not cuda"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck; do
    step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 "$kernel_tests" --gtest_brief=1
  done
else
  echo "smet: FAILED: no compute-sanitizer in PATH; it comes with the CUDA toolkit" | tee -a "$report"
  failed=1
fi
step gate scripts/cuda_gate.sh
step benchmark python benchmarks/device.py --device cuda
step demo python -m smet demo --device cuda --out runs/gpu_day_demo
exit "$failed"
