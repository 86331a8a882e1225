# Each target makes its own environment: a Python (3.11 or newer) and a package index are all that must be there.
#   make test                       with python3, in .venv
#   make test PYTHON=python3.13     with another Python, in .venv-3.13
PYTHON ?= python3
PYTEST_ARGS ?=

# A name that is not on the PATH (or is a pyenv shim that does not run) is looked up among pyenv's versions.
INTERPRETER := $(shell \
  for candidate in "$(PYTHON)" "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(patsubst python%,%,$(PYTHON)).*/bin/python; do \
    if "$$candidate" -c '' >/dev/null 2>&1; then echo "$$candidate"; break; fi; \
  done)
VERSION := $(if $(INTERPRETER),$(shell "$(INTERPRETER)" -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(VERSION))
CONSTRAINTS := constraints/$(if $(filter 3.11,$(VERSION)),py311,py313).txt
BIN := $(VENV)/bin
EXTRAS_dev := [dev]
EXTRAS_dashboard := [dashboard]
EXTRAS_browser := [dev,browser]
INSTALLED := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1

# The peer that `make benchmark` times beside ours, in an environment of its own.
PEER_PACKAGES ?= torch==2.13.0 numpy
PEER_VENV := .venv-peer
BENCHMARK_ARGS ?= --out=workdir/benchmark.json --force

.PHONY: demo dashboard benchmark test coverage test-long test-browser lint format clean has-python

demo: $(INSTALLED)-demo
	$(BIN)/python scripts/demo.py

dashboard: $(INSTALLED)-dashboard
	$(BIN)/python scripts/dashboard.py

# A quarter of an hour; wants a machine with nothing else to do.
benchmark: $(INSTALLED)-benchmark $(PEER_VENV)/.installed
	$(BIN)/python scripts/benchmark.py --peer=$(PEER_VENV)/bin/python $(BENCHMARK_ARGS)

test: $(INSTALLED)-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The same tests, and which lines and branches of the package they do not reach; a seventh slower.
coverage: $(INSTALLED)-dev
	$(BIN)/python -m pytest --cov --cov-report=term $(PYTEST_ARGS)

# What takes minutes (50 kills, 200 flipped bits, hundreds of orders of faults), and a table of its figures at the end.
test-long: $(INSTALLED)-dev
	$(BIN)/python -m pytest -m "long or table" $(PYTEST_ARGS)

# In a Chromium: $$CHROMIUM, one that is on the PATH, or else one that is installed first.
test-browser: $(INSTALLED)-browser
	$(BIN)/python tests/browser/chromium.py
	$(BIN)/python -m pytest tests/browser -m browser -n 0 $(PYTEST_ARGS)

lint: $(INSTALLED)-browser
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(INSTALLED)-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-* build dist .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*

# Succeeds where $(PYTHON) can be found.
has-python:
	@test -n "$(INTERPRETER)"

$(INSTALLED)-%: pyproject.toml $(CONSTRAINTS)
ifeq ($(INTERPRETER),)
	$(error PYTHON=$(PYTHON) does not run; name a Python that is 3.11 or newer, as in `make $(MAKECMDGOALS) PYTHON=python3.12`)
endif
	@"$(INTERPRETER)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "$(PYTHON) is Python $(VERSION); name one that is 3.11 or newer, as in `make $(MAKECMDGOALS) PYTHON=python3.12`")'
	@echo "installing into $(VENV) with $(CONSTRAINTS); the first time takes about a minute"
	@"$(INTERPRETER)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".$(EXTRAS_$*)"
	@touch $@

$(PEER_VENV)/.installed: Makefile
	@echo "installing $(PEER_PACKAGES) into $(PEER_VENV)"
	@"$(INTERPRETER)" -m venv $(PEER_VENV)
	@$(PEER_VENV)/bin/python -m pip install --quiet $(PEER_PACKAGES)
	@touch $@
