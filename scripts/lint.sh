#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# clang-format and clang-tidy on our C++ sources, ruff and mypy on python/. Usage: lint.sh VENV_BIN
set -eu
bin=$1
need() { command -v "$1" >/dev/null || { echo "smet: no $1; install it: apt-get install $1" >&2; exit 1; }; }
need clang-format
need clang-tidy
git ls-files '*.cpp' '*.h' | xargs clang-format --dry-run --Werror
# The torch-free kernels take clang-tidy a second each. A file of src/ takes 40 s, so a run looks at three of the
# folders that were gone through as a whole, which change from commit to commit; TIDY=all looks at every file of
# src/. -Wall -Wextra -Wconversion -Werror sees them always.
tidy() { xargs -n 2 -P "${JOBS:-2}" clang-tidy -p build --quiet --warnings-as-errors='*'; }
built() { while read -r file; do ! grep -qF "\"$PWD/$file\"" build/compile_commands.json || echo "$file"; done; }
turn() {
  awk -v commits="$(git rev-list --count HEAD)" '{ file[NR - 1] = $0 }
    END { for (i = 0; i < 3 && i < NR; ++i) print file[(3 * commits + i) % NR] }'
}
git ls-files 'kernels/**/*.cpp' | built | tidy
if [ "${TIDY:-}" = all ]; then
  git ls-files 'src/*.cpp' | built | tidy
else
  git ls-files 'src/optim/*.cpp' 'src/topology/*.cpp' | built | turn | tidy
fi
"$bin/ruff" check python tests examples scripts docs
"$bin/ruff" format --check python tests examples scripts docs
"$bin/mypy"
