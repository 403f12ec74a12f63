#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# clang-format and clang-tidy on our C++ sources, ruff and mypy on python/. Usage: lint.sh VENV_BIN
set -eu
bin=$1
need() { command -v "$1" >/dev/null || { echo "smet: no $1; install it: apt-get install $1" >&2; exit 1; }; }
need clang-format
need clang-tidy
git ls-files '*.cpp' '*.h' | xargs clang-format --dry-run --Werror
# The torch-free kernels take a second each; all of src/ is compiled with -Wall -Wextra -Wconversion -Werror.
git ls-files 'kernels/**/*.cpp' | xargs clang-tidy -p build --quiet --warnings-as-errors='*'
"$bin/ruff" check python tests examples scripts
"$bin/ruff" format --check python tests examples scripts
"$bin/mypy"
