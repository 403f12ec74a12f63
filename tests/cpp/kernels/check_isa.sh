#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Which registers compiled kernels use. Usage: check_isa.sh baseline|avx2|avx512 OBJECT...
#   baseline  nothing wider than xmm in any object
#   avx2      no zmm in any object; the products multiply and add ymm at once
#   avx512    the products multiply and add zmm at once; adamw does not take its sixteen weights one by one
set -eu
isa=$1
shift
fail() { echo "$1" >&2; exit 1; }
uses() { objdump -d --no-show-raw-insn "$2" | grep -E "$1" -m 1 >/dev/null; }
# A function with tens of scalar products: a group's loop, unrolled. fp16, converted in scalars, has them.
has_scalar_group() {
  objdump -d --no-show-raw-insn "$1" |
    awk '/^[0-9a-f]+ </ { n = 0; fp16 = /F16/ }
         /mulss/ && !fp16 && ++n > 40 { found = 1 }
         END { exit !found }'
}
products=
for object in "$@"; do
  case $isa in
    baseline) ! uses '%[yz]mm' "$object" || fail "$object uses registers wider than 128 bits" ;;
    avx2) ! uses '%zmm' "$object" || fail "$object uses 512-bit registers" ;;
  esac
  case $isa:$object in
    *tile_spmm*) products=$object ;;
    avx512:*adamw*) ! has_scalar_group "$object" || fail "$object takes a group of weights one by one" ;;
  esac
done
[ -n "$products" ] || fail "no object of the products among $*"
case $isa in
  avx2) uses 'vfmadd.*%ymm' "$products" || fail "$products has no 256-bit multiply-add" ;;
  avx512) uses 'vfmadd.*%zmm' "$products" || fail "$products has no 512-bit multiply-add" ;;
esac
