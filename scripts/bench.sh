#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs the benchmark binaries with sparse and dense rows randomly interleaved in one process. Usage: bench.sh FOLDER
set -eu
for name in sparse_linear adamw_step topology_update; do
  echo "== $name"
  "$1/$name" --benchmark_enable_random_interleaving=true --benchmark_repetitions=5 --benchmark_min_time=0.1 \
    --benchmark_report_aggregates_only=true
done
