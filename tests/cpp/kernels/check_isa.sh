#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Which registers compiled kernels use. Usage: check_isa.sh baseline|avx2|avx512 OBJECT...
#   baseline  nothing wider than xmm in any object
#   avx2      no zmm in any object; the products multiply and add ymm at once
#   avx512    the products multiply and add zmm at once
set -eu
isa=$1
shift
fail() { echo "$1" >&2; exit 1; }
uses() { objdump -d --no-show-raw-insn "$2" | grep -E "$1" -m 1 >/dev/null; }
products=
for object in "$@"; do
  case $isa in
    baseline) ! uses '%[yz]mm' "$object" || fail "$object uses registers wider than 128 bits" ;;
    avx2) ! uses '%zmm' "$object" || fail "$object uses 512-bit registers" ;;
  esac
  case $object in *tile_spmm*) products=$object ;; esac
done
[ -n "$products" ] || fail "no object of the products among $*"
case $isa in
  avx2) uses 'vfmadd.*%ymm' "$products" || fail "$products has no 256-bit multiply-add" ;;
  avx512) uses 'vfmadd.*%zmm' "$products" || fail "$products has no 512-bit multiply-add" ;;
esac
