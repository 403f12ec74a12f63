# SPDX-License-Identifier: BSD-3-Clause
# Everything a fresh machine needs: `make demo` and `make test`. Nothing is done twice: .venv/deps and build/stamp
# are remade only when what they come from changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
JOBS ?= 2
CMAKE_DEFINES := -Ccmake.define.SMET_BUILD_TESTS=ON -Ccmake.define.SMET_BUILD_BENCHMARKS=ON

SOURCES := $(shell find CMakeLists.txt pyproject.toml cmake include src kernels python/bindings tests/cpp benchmarks -type f 2>/dev/null)

.PHONY: demo test build lint bench clean

$(VENV)/deps: pyproject.toml scripts/check_toolchain.sh
	@scripts/check_toolchain.sh $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $$($(BIN)/python scripts/requirements.py)
	@touch $@

build/stamp: $(VENV)/deps $(SOURCES)
	@scripts/check_toolchain.sh $(PYTHON) --tests
	PATH="$(CURDIR)/$(BIN):$$PATH" CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PIP) install --quiet \
	  --no-build-isolation --no-deps $(CMAKE_DEFINES) --editable .
	@touch $@

build: build/stamp

test: build/stamp
	$(BIN)/ctest --test-dir build --output-on-failure -j $(JOBS)
	$(BIN)/python -m pytest

demo: build/stamp
	$(BIN)/smet demo --out runs/demo

bench: build/stamp
	$(BIN)/smet bench

lint: build/stamp
	scripts/lint.sh $(BIN)

clean:
	rm -rf build $(VENV) runs
