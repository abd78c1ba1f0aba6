# Two commands do all the set-up: `make audit` and `make test`. Whatever they need goes into .venv.

PYTHON ?= python3
VENV ?= .venv
# Where to fetch torch from; empty: the default index, whose Linux build brings CUDA. For the CPU build:
#   make audit TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Extra options of the example audit, such as AUDIT="--limit 20 --seconds 30".
AUDIT ?=
# Test processes at a time, and extra options of pytest, such as PYTEST="-k relu".
WORKERS ?= 2
PYTEST ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help audit test lint format lock violations clean

help:
	@echo "make audit       bracket the worst case of the digits network: report.html and casebook.db"
	@echo "make test        lint, type check, floors, and every test"
	@echo "make lint        only the first three"
	@echo "make format      put the sources into form"
	@echo "make lock        write requirements*.lock anew from the ranges of pyproject.toml"
	@echo "make violations  list in docs/style.md where the sources break the style"
	@echo "make clean       remove .venv and what the audit wrote"

# Done again only when what is to be installed has changed.
$(READY): requirements.lock requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "expected Python 3.11 or later, got $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) install --no-deps --index-url $(TORCH_INDEX) "$$(grep '^torch==' requirements.lock)")
	$(PIP) install -r requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

digits.npz: examples/digits/train.py examples/digits/model.py | $(READY)
	$(BIN)/python -m examples.digits.train

audit: $(READY) digits.npz
	$(BIN)/fathom audit examples.digits.model:trained digits.npz --linf 0.06 --range 0 1 --seconds 150 --case-boxes 2000 $(AUDIT)

test: lint
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(PYTEST)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# torch is held to one release: proofs rest on its arithmetic. Choose another with `make lock TORCH=2.13.1`.
TORCH ?= $(shell sed -n 's/^torch==//p' requirements.lock)
lock: $(READY)
	$(BIN)/python scripts/lock.py torch==$(TORCH)

violations: $(READY)
	$(BIN)/python scripts/violations.py

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f report.html casebook.db casebook.db-wal casebook.db-shm digits.npz digits.safetensors digits.onnx
