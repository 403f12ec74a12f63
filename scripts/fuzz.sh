#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Coverage-guided fuzzing of the C++ checkpoint readers under ASan and UBSan (X9). Usage: scripts/fuzz.sh SECONDS
set -eu
cd "$(dirname "$0")/.."
command -v clang++ >/dev/null || { echo "smet: no clang++; install it: apt-get install clang" >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I. \
  tests/fuzz/checkpoint_fuzz.cpp src/checkpoint/json.cpp src/checkpoint/safetensors.cpp -o "$folder/fuzz"
mkdir "$folder/found"  # what it finds new is not kept; the corpus in the repository is small on purpose
"$folder/fuzz" -max_total_time="$1" -timeout=120 -rss_limit_mb=1024 -max_len=4096 -print_final_stats=1 \
  -artifact_prefix=./ "$folder/found" tests/fuzz/corpus
