# Two commands matter: `make demo` and `make test`. Each installs what it needs into .venv and runs.
#
#   PYTHON=python3.12     the interpreter that makes the virtual environment (default: the first found below)
#   VENV=path             where the virtual environment lies
#   PIP_FLAGS="..."       passed to every `pip install`, for example a package index for CPU builds of torch

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?=

# The first interpreter that starts and is new enough. constraints.txt was resolved on Python 3.11, hence its place.
find_python = $$(for name in python3.11 python3.12 python3.13 python3; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
PYTHON ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
LOWEST_STAMP := $(LOWEST)/.installed

# $(call install,VENV,CONSTRAINTS,EXTRA): make the virtual environment where it is missing, install the package editable.
define install
	@python="$${PYTHON:-$(PYTHON)}"; python="$${python:-$(find_python)}"; \
	if [ -z "$$python" ]; then echo "No Python >= 3.11 found; name one: make PYTHON=/path/to/python" >&2; exit 1; fi; \
	if [ ! -x "$(1)/bin/python" ]; then echo "Making $(1) with $$python"; "$$python" -m venv "$(1)"; fi
	@"$(1)/bin/python" -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c $(2) "setuptools>=77"
	@"$(1)/bin/python" -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c $(2) \
		--no-build-isolation -e ".[$(3)]"
	@touch "$(1)/.installed"
endef

$(STAMP): pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt,dev)

$(LOWEST_STAMP): pyproject.toml constraints-lowest.txt
	$(call install,$(LOWEST),constraints-lowest.txt,test)

.PHONY: help install demo figures docs docs-serve docs-check test lint ruff types layers pytest test-fast test-lowest format clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | \
		while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

install: $(STAMP) ## Install the package and its tools into .venv.

demo: $(STAMP) ## Install, sample with the bundled models, print the table and write the pictures.
	$(BIN)/ab-schedulers demo

figures: $(STAMP) ## Print every table of docs/measurements.md (long).
	$(BIN)/ab-schedulers demo
	$(BIN)/ab-schedulers bench quality
	$(BIN)/ab-schedulers bench defaults
	$(BIN)/ab-schedulers bench speed

# NO_MKDOCS_2_WARNING: Material's note about its successor, which is not about these pages.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

docs: $(STAMP) ## Build the documentation site into site/; warnings are errors.
	$(MKDOCS) build --strict

docs-serve: $(STAMP) ## Serve the documentation site and rebuild it when a page changes.
	$(MKDOCS) serve

docs-check: docs ## Build the site and look at every page in Chromium, at desktop and phone width.
	$(BIN)/python -m website.browser_check site

test: lint pytest ## Install and run everything: ruff, mypy, import-linter, pytest.

lint: ruff types layers ## Format, lint, types and directions of imports.

ruff: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

pytest: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-fast: $(STAMP) ## The tests without those marked slow.
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_FLAGS)

test-lowest: $(LOWEST_STAMP) ## Install the lowest supported versions into .venv-lowest and run the tests there.
	$(LOWEST)/bin/python -m pytest $(PYTEST_FLAGS)

format: $(STAMP) ## Format the code and apply the safe fixes.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove virtual environments, caches and build products.
	rm -rf $(VENV) $(LOWEST) build dist site *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find ab_schedulers theory website tests -type d -name __pycache__ -prune -exec rm -rf {} +
