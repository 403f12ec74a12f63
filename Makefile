# SPDX-License-Identifier: BSD-3-Clause
# Everything a fresh machine needs: `make demo` and `make test`. Nothing is done twice: each stamp is remade only when
# what it comes from changes. `make demo` needs a C++ compiler and python3; the C++ tests need GoogleTest too.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(shell find CMakeLists.txt pyproject.toml cmake include src kernels python/bindings -type f)
TEST_SOURCES := $(shell find tests/cpp tests/gpusim benchmarks examples/cpp -type f)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

.PHONY: demo test test-long test-consumer promises build lint bench bench-kernels docs clean

build: build/package

demo: build/package
	$(BIN)/smet demo --out runs/demo

test: build/tests
	$(BIN)/ctest --test-dir build --output-on-failure -j $(JOBS)
	$(BIN)/python -m pytest

test-long: build/tests
	$(BIN)/python -m pytest -m long

test-consumer: build/tests
	$(BIN)/python -m pytest -m "long or not long" tests/python/test_consumer.py

promises: build/tests
	$(BIN)/python scripts/promises.py

bench: build/package
	$(BIN)/smet bench layer --peers
	$(BIN)/smet bench optimizer
	$(BIN)/smet bench topology
	$(BIN)/smet bench step --model 60m --density .25 .1

bench-kernels: build/tests
	scripts/bench.sh build/benchmarks

docs: build/package
	$(BIN)/python docs/build.py

lint: build/package
	scripts/lint.sh $(BIN)

.venv/deps: pyproject.toml scripts/requirements.py scripts/check_toolchain.sh
	@scripts/check_toolchain.sh $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet $$($(BIN)/python scripts/requirements.py)
	@touch $@

build/package: .venv/deps $(SOURCES)
	$(PIP) install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

build/tests: build/package $(TEST_SOURCES)
	@scripts/check_toolchain.sh $(PYTHON) --tests
	$(BIN)/cmake -S . -B build -DSMET_BUILD_TESTS=ON -DSMET_BUILD_BENCHMARKS=ON >build/configure.log || \
	  { cat build/configure.log; exit 1; }
	$(BIN)/cmake --build build
	@touch $@

clean:
	rm -rf build .venv runs
