# make demo    the story, end to end (root)
# make test    every test that takes seconds; test-heavy: the ones that take minutes or gigabytes
# make test-peers   against real clients and servers; make fuzz: coverage-guided; make bench: side by side with Envoy
# make check   ruff, ruff format, mypy and the fast tests that need no root
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# The distribution's Python first: the unprivileged proxy cannot read one that lives in root's home.
PYTHON ?= $(shell for python in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done)
PYTEST := $(BIN)/python -m pytest
STAMP := build/setup.stamp
FOLDERS := proxy parsers redirect policy

.DEFAULT_GOAL := setup

setup: $(STAMP) native

$(STAMP): pyproject.toml setup.py .ci/packages
	@test -n "$(PYTHON)" || { echo "racecar: needs Python 3.11 or later, none found; set PYTHON=" >&2; exit 1; }
	PYTHON="$(PYTHON)" .ci/packages --install
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@mkdir -p $(@D)
	@touch $@

# The editable install reads them where they are built, so an edited program needs no new installation.
native: $(STAMP)
	@$(MAKE) --no-print-directory --silent -C redirect/bpf
	@$(MAKE) --no-print-directory --silent -C redirect/launcher

demo: setup
	@test "$$(id -u)" = 0 || { echo "racecar: the demo attaches BPF programs: run it as root (sudo make demo)" >&2; exit 1; }
	@$(BIN)/racecar demo

test: setup
	$(PYTEST) -m "not heavy and not peers"

test-heavy: setup
	$(PYTEST) -m "heavy and not peers"

# Clients and servers of other makers: Python's, Java's, Go's, Node's, curl, wget, nginx.
test-peers: setup
	.ci/packages --install peers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,peers]'
	$(PYTEST) -m peers

# Coverage-guided fuzzing of the parsers and the conversation, FUZZ_SECONDS in all.
FUZZ_SECONDS ?= 600
fuzz: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

# Side by side with Envoy; every figure is a ratio taken in one run. BENCH takes options: BENCH="--rounds 9 --pin"
BENCH ?=
bench: setup
	.ci/packages --install bench
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks $(BENCH)

check: setup typeroot
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST) -q -m "not heavy and not peers and not slow and not root"

# mypy cannot follow setuptools' package-dir: it sees the four folders through these links.
typeroot:
	@mkdir -p build/typeroot/racecar
	@for folder in $(FOLDERS); do ln -sfn "../../../$$folder" "build/typeroot/racecar/$$folder"; done

clean:
	$(MAKE) --no-print-directory -C redirect/bpf clean
	-$(MAKE) --no-print-directory -C redirect/launcher clean
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: setup native demo test test-heavy test-peers fuzz bench check typeroot clean
