#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# The day there is a GPU: builds with CUDA, tests on the device, compute-sanitizer, benchmarks; one report file.
# Needs nvcc 13 and, in the python that is found first, torch 2.11 or newer with CUDA 13, scikit-build-core, cmake,
# ninja, pytest and hypothesis. Downloads nothing. It has never run on a GPU.
# Exit code 0: everything passed; 1: a step failed (the report says which); 2: a tool is missing; 3: no GPU.
# Usage: scripts/gpu_day.sh [REPORT]
set -u
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
report=${1:-runs/gpu_day.txt}
site="$PWD/build-cuda/site"

missing() { echo "smet: $1" >&2; exit 2; }
command -v python >/dev/null || missing "no python in PATH"
command -v nvcc >/dev/null || missing "no nvcc in PATH; install the CUDA toolkit 13.0, or put its bin folder into PATH"
python -c 'import torch; assert torch.version.cuda' 2>/dev/null || missing "no torch with CUDA in $(command -v python)"
python -c 'import scikit_build_core, cmake, ninja, pytest, hypothesis' 2>/dev/null ||
  missing "one of scikit-build-core, cmake, ninja, pytest, hypothesis is missing in $(command -v python)"

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

step build python -m pip --disable-pip-version-check install --quiet --no-index --no-build-isolation --no-deps \
  --upgrade --target "$site" -C build-dir=build-cuda -C cmake.define.SMET_CUDA=ON . || exit 1
export PYTHONPATH="$site" LD_LIBRARY_PATH="$site/smet/lib:${LD_LIBRARY_PATH:-}"
step info python -m smet info || exit 1
if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "smet: built with CUDA, but torch sees no GPU on this machine: nothing was run on a device" | tee -a "$report" >&2
  exit 3
fi

step device nvidia-smi
step tests python -m pytest -q tests/python -m "cuda or not cuda"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck; do
    step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
      python benchmarks/device.py --device cuda --check
  done
else
  echo "smet: FAILED: no compute-sanitizer in PATH; it comes with the CUDA toolkit" | tee -a "$report"
  failed=1
fi
step gate scripts/cuda_gate.sh
step benchmark python benchmarks/device.py --device cuda
exit "$failed"
