# Every target sets up what it needs. PYTHON picks the interpreter, WORKERS the number of
# test processes: make test PYTHON=python3.12 WORKERS=4
PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=
DRILL_ARGS ?=
MUTANTS_ARGS ?=
LOCK_ARGS ?=
UV_VERSION := 0.13.9

BIN := .venv/bin
INSTALLED := .venv/.installed
LOCK := requirements.lock
EXTRAS := .venv-extras/.installed
DOCS := .venv-docs/.installed
DOCS_LOCK := requirements-docs.lock

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-fast test-slow test-extras drill mutants lint docs lock clean

help:
	@echo "make quickstart   train, audit, harden and audit again, on bundled data"
	@echo "make test         the tests and the notebooks (WORKERS=2)"
	@echo "make test-fast    contracts, floors, docs, flags, tables: two minutes once compiled"
	@echo "make test-slow    the tests marked slow"
	@echo "make test-extras  those that skip without Keras, PyTorch, Captum, Quantus, …"
	@echo "make drill        kills, damaged files, bad flags, bombs (DRILL_ARGS=--minutes=8)"
	@echo "make mutants      deliberate faults that the tests must see (MUTANTS_ARGS=--only=…)"
	@echo "make lint         ruff"
	@echo "make docs         the documentation into site/, open site/index.html"
	@echo "make install      only set up .venv"
	@echo "make lock         renew the lock files (LOCK_ARGS=--upgrade: newest versions)"
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
	$(BIN)/python -m experiments.quickstart

# One file's tests share a process, and with it their compiled functions and fixtures.
# Files in the order of tests/conftest.py: xdist's own, by the number of tests, leaves
# the longest to the end.
SHARED := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: $(INSTALLED)
	$(BIN)/python -m pytest $(SHARED) --durations 10 $(PYTEST_ARGS)

# What tells most about a change for its time. Programs are kept in .pytest_cache.
FAST := tests/test_layers.py tests/test_docs.py tests/test_readme.py \
  $(wildcard $(addprefix tests/r2et_jax/test_, *_contract.py subject.py \
  score.py numerics.py models.py ranking.py threat_model.py metrics_summary.py \
  metrics_guards.py metrics_statistics.py plots*.py audit_guards.py saved.py) \
  $(addprefix tests/experiments/test_, rooms.py presets.py common_*.py \
  gradient_profile.py robustness_report.py judged_claims.py))
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest $(SHARED) -k "not examples_run" \
	  $(FAST) $(PYTEST_ARGS)

# pytest leaves with 5 when it has nothing to run: no test is slow.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --durations 10 $(PYTEST_ARGS) || [ $$? -eq 5 ]

# Files with tests that are skipped where a library is not installed.
test-extras: $(EXTRAS)
	.venv-extras/bin/python -m pytest $(SHARED) -m "slow or not slow" -rs --durations 10 \
	  $$(grep -rlE "importorskip|import foreign" tests --include="test_*.py") \
	  tests/test_notebooks.py $(PYTEST_ARGS)

# What the lock has, and then the extras, which it does not have.
$(EXTRAS): $(LOCK) pyproject.toml
	$(PYTHON) -m venv --clear .venv-extras
	.venv-extras/bin/python -m pip install --quiet --require-hashes \
	  --only-binary :all: -r $(LOCK)
	.venv-extras/bin/python -m pip install --quiet --only-binary :all: \
	  --no-build-isolation -e ".[all]"
	@touch $@

drill: $(INSTALLED)
	$(BIN)/python -m tests.drill $(DRILL_ARGS)

mutants: $(INSTALLED)
	$(BIN)/python -m tests.mutants --workers=$(WORKERS) $(MUTANTS_ARGS)

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .

# A warning is an error. The pages are made from the source as text: nothing of the
# library is installed or imported.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

$(DOCS): $(DOCS_LOCK)
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip install --quiet --require-hashes --only-binary :all: \
	  -r $(DOCS_LOCK)
	@touch $@

# uv is used here alone, in an environment of its own. Pins that still fit are kept.
# The locks must hold names, versions and hashes only: no slash, so no address or path.
COMPILE := .venv-lock/bin/uv pip compile --universal --fork-strategy fewest \
  --generate-hashes --only-binary :all: --no-annotate --no-emit-index-url \
  --no-emit-find-links --no-emit-build-options \
  --custom-compile-command "make lock" --quiet
lock: .venv-lock/.installed
	$(COMPILE) $(LOCK_ARGS) --extra dev --output-file $(LOCK) pyproject.toml
	$(COMPILE) $(LOCK_ARGS) --python-version 3.11 --group docs --output-file $(DOCS_LOCK)
	@if grep -n / $(LOCK) $(DOCS_LOCK); then echo "a lock holds an address" >&2; exit 1; fi

.venv-lock/.installed: Makefile
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --only-binary :all: uv==$(UV_VERSION)
	@touch $@

clean:
	rm -rf .venv .venv-extras .venv-docs .venv-lock site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
