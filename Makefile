# Everything runs in .venv, which the first target that needs it creates. `make help` lists the targets.

VENV := .venv
BIN := $(VENV)/bin
# Newer than what it was installed from: then there is nothing to install.
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Options for pytest, e.g. make test ARGS='-k pgd -m "not slow"'
ARGS ?=
# Which benchmarks to run, e.g. make bench BENCH=benchmarks/mnist_finding.py
BENCH ?= $(wildcard benchmarks/*.py)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install the package, its tools and the pinned dependencies

# The first interpreter that both runs and is of a supported version: a command of that name may be a launcher for
# a version that is not there. An environment without pip is what an interrupted creation leaves behind.
$(STAMP): pyproject.toml constraints.txt
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
		if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then \
			if $(BIN)/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
			echo "Creating $(VENV) with $$($$python --version)"; \
			exec $$python -m venv --clear $(VENV); \
		fi; \
	done; \
	echo "unmask needs Python 3.11, 3.12 or 3.13: neither python3.11, python3.12, python3.13 nor python3 is one." >&2; \
	echo "Install one of them, or name it: make setup PYTHON=/path/to/python3.11" >&2; \
	exit 1
	@echo "Installing what constraints.txt pins: a few minutes, some 6 GB on Linux with its CUDA libraries"
	$(PIP) install --quiet --constraint constraints.txt hatchling editables
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,docs]'
	@touch $@

demo: $(STAMP) ## train four defences on the embedded digits, audit them and write the report
	$(BIN)/unmask demo

# A process per core, and a thread in each.
test: $(STAMP) ## run the tests; ARGS='...' goes to pytest
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

lint: $(STAMP) ## check style, format, types and what the rooms import
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP) ## build docs/_build/html; every warning is an error
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

bench: $(STAMP) ## run the benchmarks; BENCH=benchmarks/NAME.py runs one
	@test -n "$(strip $(BENCH))" || { echo "There is no benchmark in benchmarks/." >&2; exit 1; }
	@set -e; for benchmark in $(BENCH); do echo "== $$benchmark"; $(BIN)/python $$benchmark; done

clean: ## remove caches and built files; .venv and runs/ stay
	rm -rf build dist docs/_build docs/api htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
