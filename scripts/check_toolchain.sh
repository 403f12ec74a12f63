#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Says which compiler or Debian package is missing. Usage: check_toolchain.sh PYTHON [--tests]
set -eu
python=$1
fail() { echo "smet: $1" >&2; exit 1; }

command -v "$python" >/dev/null || fail "no '$python'; install it: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  fail "$($python --version) found, 3.10 or newer needed; choose another with make PYTHON=..."
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "no venv module; install it: apt-get install python3-venv"
command -v "${CXX:-g++}" >/dev/null || fail "no C++ compiler '${CXX:-g++}'; install it: apt-get install g++"
echo 'int main() { return 0; }' | "${CXX:-g++}" -std=c++20 -x c++ - -o /dev/null 2>/dev/null ||
  fail "'${CXX:-g++}' does not compile C++20; install a newer one: apt-get install g++ (12 or newer)"
include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
test -f "$include/Python.h" || fail "no Python.h; install it: apt-get install python3-dev"

if [ "${2:-}" = --tests ]; then
  has_header() { echo "#include <$1>" | "${CXX:-g++}" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null; }
  has_header gtest/gtest.h || fail "GoogleTest is missing; install it: apt-get install libgtest-dev"
  has_header nlohmann/json.hpp || fail "nlohmann's JSON is missing; install it: apt-get install nlohmann-json3-dev"
  has_header openssl/evp.h || fail "OpenSSL's headers are missing; install them: apt-get install libssl-dev"
  has_header gloo/rendezvous/store.h || fail "gloo's headers are missing; install them: apt-get install libgloo-dev"
  has_header benchmark/benchmark.h || fail "Google Benchmark is missing; install it: apt-get install libbenchmark-dev"
fi
