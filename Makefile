# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

SHELL := /bin/bash
.DEFAULT_GOAL := help
export CARGO_TARGET_DIR := $(CURDIR)/target
export PYTHONDONTWRITEBYTECODE := 1
BIN := $(CURDIR)/.venv/bin
# What tests and the demo write goes here, caches of the SDK included.
export TMPDIR := $(CURDIR)/target/tmp
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Tests that go through mounts wait most of the time: so many processes share them.
SHARED := -n 3 --dist worksteal
# What the released suite runs on: our package, the release (PEER=1), or the release's modules over
# our core (RELEASED_MODULES=1).
SUBJECT := $(if $(PEER),peer,$(if $(RELEASED_MODULES),released-modules,ours))

.PHONY: help fsx pjdfstest soak setup build build-release examples demo test test-rust model test-python test-upstream test-sdk lint wheel sdist bench bench-core bench-compare clean

help: ## Say what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: ## Install what building and testing need (Debian packages, .venv)
	@scripts/setup.sh
	@mkdir -p $(TMPDIR)

build: setup
	@echo "== building for tests"
	@scripts/quietly.sh $(BIN)/maturin develop --features fault-injection

build-release: setup
	@echo "== building"
	@scripts/quietly.sh $(BIN)/maturin develop --release

demo: build-release ## Load this machine's files into a local cluster, mount, read back, compare
	@$(BIN)/python scripts/demo.py

test: lint wheel build examples fsx pjdfstest ## Run all tests
	@scripts/test-mounts.sh $(SHARED) $(PYTEST_ARGS)
	@echo "== all tests passed"

test-rust: setup ## Test the core (a part of lint)
	@echo "== testing the core"
	@scripts/test-rust.sh

model: setup ## Compare the file system with a plain model (N=1000000 operations, SEED=...)
	MODEL_N=$(or $(N),200000) $(if $(SEED),TEST_SEED=$(SEED)) cargo test -q --no-default-features --test model -- --nocapture

examples: setup
	@echo "== building the programs of the benchmark"
	cargo build -q --no-default-features --examples

# A program of others that writes, cuts, maps and reads a file at random, and compares.
FSX := $(CURDIR)/target/tools/bin/fsx
fsx: $(FSX)
$(FSX): | setup
	@echo "== building fsx"
	cargo install -q fsx --version 0.3.2 --locked --root target/tools

# What POSIX says of a file system, as others have it.
PJDFSTEST := $(CURDIR)/target/tools/bin/pjdfstest
pjdfstest: $(PJDFSTEST)
$(PJDFSTEST): | setup
	@echo "== building pjdfstest"
	cargo install -q pjdfstest --version 0.2.2 --locked --debug --root target/tools

soak: examples build fsx ## Have fsx do 50,000 operations for each seed, and kill a mount in mid write 100 times
	FSX_N=50000 $(BIN)/python -m pytest tests/python/test_mount_fsx.py $(PYTEST_ARGS)
	KILL_N=100 $(BIN)/python -m pytest tests/python/test_mount_saving_processes.py -k killed $(PYTEST_ARGS)

test-python: examples fsx pjdfstest ## Run our own tests through mounts (PYTEST_ARGS="-k ...")
	@echo "== testing through mounts"
	$(BIN)/python -m pytest tests/python $(SHARED) $(PYTEST_ARGS)

test-upstream: build ## Run the released test suite (PEER=1: on the release; RELEASED_MODULES=1: on its modules over our core)
	@$(BIN)/python tests/upstream/suite.py $(SUBJECT) $(PYTEST_ARGS)

test-sdk: build ## Run the SDK's released tests against the local cluster
	@$(BIN)/python tests/upstream/sdk/suite.py $(PYTEST_ARGS)

lint: setup ## Check format, clippy, dependencies, the core without Python, ruff, the type stubs
	@echo "== checking format and style"
	cargo fmt --all --check
	@$(BIN)/python scripts/imports.py
	cargo clippy -q --all-targets -- -D warnings
	cargo clippy -q --all-targets --no-default-features -- -D warnings
	@scripts/deny.sh
	@$(MAKE) --no-print-directory test-rust
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory build
	$(BIN)/python -m mypy.stubtest llfuse._core --allowlist scripts/stubtest-allowlist.txt
	$(BIN)/python -m mypy python/llfuse python/arvados_fuse

# For systems as old as those that Arvados runs on (glibc 2.28: Debian 10, RHEL 8): zig links against
# the glibc that it is told, whichever this machine has.
wheel: setup ## Build the wheel into dist/
	@echo "== building the wheel"
	@rm -rf dist
	@PATH=$(BIN):$$PATH scripts/quietly.sh $(BIN)/maturin build --release --zig --compatibility manylinux_2_28 --out dist
	@ls dist

sdist: setup ## Build the source distribution into dist/
	@rm -f dist/*.tar.gz
	@scripts/quietly.sh $(BIN)/maturin sdist --out dist
	@ls dist

bench: setup wheel ## Compare with the release and with the limit (QUICK=1, ROWS=read,stat, BEFORE=an-earlier.whl)
	@BEFORE=$(BEFORE) scripts/bench.sh $(if $(QUICK),--quick) $(if $(ROWS),--rows $(ROWS)) $(BENCH_ARGS)

bench-core: setup ## Measure the core alone
	cargo bench -q --no-default-features --bench core

bench-compare: ## Compare two runs of bench (A=old.json B=new.json)
	@PYTHONPATH=scripts python3 -m bench.compare $(A) $(B)

clean: ## Remove everything that was made
	rm -rf target dist .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find python tests scripts -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/llfuse/_core*.so
