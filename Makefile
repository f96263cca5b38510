# Every target sets up what it needs. PYTHON picks the interpreter, WORKERS the number of
# test processes: make test PYTHON=python3.12 WORKERS=4
PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=
DRILL_ARGS ?=
LOCK_ARGS ?=
UV_VERSION := 0.13.9

BIN := .venv/bin
INSTALLED := .venv/.installed
LOCK := requirements.lock

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow drill lint lock clean

help:
	@echo "make quickstart   train, attack and compare on bundled data"
	@echo "make test         the tests and the notebooks (WORKERS=2)"
	@echo "make test-slow    the tests marked slow"
	@echo "make drill        kills, damaged files, bad flags, bombs (DRILL_ARGS=--minutes=8)"
	@echo "make lint         ruff"
	@echo "make install      only set up .venv"
	@echo "make lock         renew requirements.lock (LOCK_ARGS=--upgrade: newest versions)"
	@echo "make clean        remove .venv, builds and caches; results and data stay"

install: $(INSTALLED)

# The stamp is written last, so that an interrupted install is done again from scratch.
# Wheels only and no build isolation: nothing is fetched that the lock does not name.
$(INSTALLED): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "r2et_jax needs Python 3.11 or newer, but '$(PYTHON)' is missing or older:" \
	    "$$($(PYTHON) --version 2>&1 | head -n 1)." \
	    "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-index --no-deps --no-build-isolation -e .
	@touch $@

quickstart: $(INSTALLED)
	$(BIN)/python -m experiments.robustness --preset=smoke --datasets=breast_cancer \
	  --output_dir=results/quickstart

# One file's tests share a process, and with it their compiled functions and fixtures.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations 10 $(PYTEST_ARGS)

# pytest leaves with 5 when it has nothing to run: no test is slow.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --durations 10 $(PYTEST_ARGS) || [ $$? -eq 5 ]

drill: $(INSTALLED)
	$(BIN)/python -m tests.drill $(DRILL_ARGS)

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .

# uv is used here alone, in an environment of its own. Pins that still fit are kept.
# The lock must hold names, versions and hashes only: no slash, so no address or path.
lock: .venv-lock/.installed
	.venv-lock/bin/uv pip compile --universal --fork-strategy fewest --extra dev \
	  --generate-hashes --only-binary :all: --no-annotate --no-emit-index-url \
	  --no-emit-find-links --no-emit-build-options \
	  --custom-compile-command "make lock" $(LOCK_ARGS) \
	  --quiet --output-file $(LOCK) pyproject.toml
	@if grep -n / $(LOCK); then echo "$(LOCK) holds an address" >&2; exit 1; fi

.venv-lock/.installed: Makefile
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --only-binary :all: uv==$(UV_VERSION)
	@touch $@

clean:
	rm -rf .venv .venv-lock build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
