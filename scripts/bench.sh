#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs every benchmark binary, its sparse and dense rows randomly interleaved. Usage: bench.sh FOLDER
set -eu
for binary in "$1"/bench_*; do
  echo "== ${binary##*/bench_}"
  "$binary" --benchmark_enable_random_interleaving=true --benchmark_repetitions=5 --benchmark_min_time=0.1 \
    --benchmark_report_aggregates_only=true
done
