# The verbs of this project. `make demo` and `make test` set up all they need, and say what they install before they do.
.DEFAULT_GOAL := help
.PHONY: help demo kubernetes test test-fast lint types imports unit integration e2e bench format lock setup setup-test clean
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

help: ## Show the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: setup ## The whole guide on this machine: real Kubernetes, simulated SGX
	@$(BIN)/kubenclave demo $(DEMO)

test: setup-test lint unit integration e2e ## All tests

test-fast: $(INSTALLED) lint unit ## What needs neither root nor a build

lint: $(INSTALLED) types imports ## Style, types and the rules of who may know whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(INSTALLED)
	@$(BIN)/mypy

imports: $(INSTALLED)
	@$(BIN)/lint-imports

unit: $(INSTALLED)
	@$(BIN)/pytest tests/unit

integration: setup-test kubernetes
	@$(BIN)/pytest tests/integration

e2e: setup-test kubernetes ## The real local cluster; needs root
	@$(BIN)/pytest tests/e2e

bench: setup-test kubernetes ## Figures, each beside its baseline in the same run
	@$(BIN)/pytest tests/bench -s

kubernetes: $(INSTALLED) ## The Kubernetes programs, built once into the cache
	@$(BIN)/kubenclave local build >/dev/null

format: $(INSTALLED) ## Format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

lock: $(INSTALLED) ## Pin the dependencies anew, with hashes and without addresses
	@for role in cli node azure; do $(BIN)/uv pip compile -q --generate-hashes --universal --python-version 3.11 \
	  --no-header --no-emit-index-url --extra $$role pyproject.toml -o requirements/$$role.txt; done
	@$(BIN)/uv pip compile -q --generate-hashes --universal --python-version 3.11 \
	  --no-header --no-emit-index-url --all-extras pyproject.toml -o requirements/dev.txt

setup: requirements/debian-demo.txt
	@$(call debian_packages,requirements/debian-demo.txt)
	@$(MAKE) --no-print-directory $(INSTALLED)

setup-test: setup
	@$(call debian_packages,requirements/debian-test.txt)

$(INSTALLED): requirements/dev.txt pyproject.toml
	@echo "Installing the Python packages of requirements/dev.txt into $(VENV), hashes checked."
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call debian_install,python3-venv); }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean: ## Remove what was built here (the local clusters stay: kubenclave local down)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# $(1): a file with one package name a line. Installs what dpkg does not know; says so first.
define debian_packages
missing=$$(for p in $$(cat $(1)); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q "ok installed" || echo $$p; done); \
if [ -n "$$missing" ]; then $(call debian_install,$$missing); fi
endef

define debian_install
packages=$$(echo $(1)); \
if ! command -v apt-get >/dev/null; then \
  echo "error: these packages are needed and there is no apt-get to install them: $$packages" >&2; \
  echo "hint: install what they hold with this system's own tools" >&2; exit 6; \
elif [ "$$(id -u)" != 0 ]; then \
  echo "error: installing these Debian packages needs root: $$packages" >&2; \
  echo "hint: run: sudo apt-get install --no-install-recommends $$packages  (make test-fast works without)" >&2; exit 6; \
else \
  echo "Installing from Debian: $$packages"; \
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$packages >/dev/null; \
fi
endef
