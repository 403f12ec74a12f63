#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Compiles every CUDA kernel for four architectures (no GPU needed) and prints registers, spills and shared memory.
# Exit code 1: a kernel spills or needs too many registers, or expand and gather lack 128-bit global accesses;
# 2: a tool is missing or a source does not compile. Usage: scripts/cuda_gate.sh [FILE.cu ...]
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
architectures="80 90 100 120"
missing() { echo "smet: $1" >&2; exit 2; }

command -v nvcc >/dev/null || missing "no nvcc in PATH; install the CUDA toolkit 13.0, or put its bin folder into PATH"
command -v python >/dev/null || missing "no python in PATH; run: make build"
disassembler=$(command -v cuobjdump || python scripts/find_cuobjdump.py) ||
  missing "no cuobjdump; it comes with the CUDA toolkit and with pip install triton"

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
compile() {  # FILE ARCHITECTURE
  object="$1/$(basename "$2" .cu).sm_$3"
  nvcc -std=c++20 -O3 --options-file kernels/cuda/nvcc.options -I. -arch="sm_$3" -cubin -Xptxas -v "$2" -o "$object.cubin" \
    2>"$object.log" || { cat "$object.log" >&2; echo "smet: $2 does not compile for sm_$3" >&2; exit 255; }
}
export -f compile

sources=("$@")
[ $# -gt 0 ] || sources=(kernels/cuda/*.cu)
for source in "${sources[@]}"; do
  for architecture in $architectures; do printf '%s\0%s\0' "$source" "$architecture"; done
done | xargs -0 -n 2 -P "${JOBS:-2}" bash -c 'compile "$0" "$1" "$2"' "$out" || exit 2

python scripts/ptxas_table.py "$out"/*.log || failed=1
for stem in expand gather; do
  for architecture in $architectures; do
    cubin="$out/$stem.sm_$architecture.cubin"
    [ -e "$cubin" ] || continue
    instruction=$([ "$stem" = expand ] && echo STG || echo LDG)
    "$disassembler" -sass "$cubin" >"$out/sass" || missing "$disassembler cannot read sm_$architecture"
    grep -q "$instruction\.E\.128" "$out/sass" ||
      { echo "smet: $stem has no 128-bit $instruction on sm_$architecture" >&2; failed=1; }
  done
done
exit "${failed:-0}"
