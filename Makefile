# The verbs of this project. `make demo` and `make test` set up all they need, and say what they install before they do.
.DEFAULT_GOAL := help
.PHONY: help demo kubernetes tools fuzz test test-fast lint types imports unit integration e2e bench format lock setup setup-test clean
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

help: ## Show the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: setup ## The whole guide on this machine: real Kubernetes, simulated SGX
	@$(BIN)/kubenclave demo $(DEMO)

test: setup-test tools lint unit integration e2e ## All tests

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

integration: setup-test tools kubernetes
	@$(BIN)/pytest tests/integration

fuzz: $(INSTALLED) ## The parsers' fuzz tests, for longer
	@$(BIN)/pytest tests/unit/sgx/test_fuzz.py --hypothesis-profile fuzz

# The tests of `local` look at the whole machine and run alone. The others mostly wait, so those of the nodes run beside the rest.
e2e: setup-test kubernetes ## The real local cluster; needs root
	@$(BIN)/pytest tests/e2e/local
	@mkdir -p build; $(BIN)/pytest tests/e2e/node >build/e2e-node.log 2>&1 & node=$$!; trap "kill $$node" INT TERM; \
	  $(BIN)/pytest tests/e2e --ignore tests/e2e/local --ignore tests/e2e/node; rest=$$?; \
	  wait $$node; nodes=$$?; cat build/e2e-node.log; exit $$((rest + nodes))

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

# Programs of others that the tests check against. Where one cannot be built, its tests skip and say so.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kubenclave/tools
HELM := $(TOOLS)/helm-4.3.1/helm
COSIGN := $(TOOLS)/cosign
AZURE_CLI := $(TOOLS)/azure-cli-2.91.0/bin/az
PROMQL := $(TOOLS)/promql-0.313.0/promql
SGXS_TOOLS := $(TOOLS)/sgxs-tools-0.10.0/bin/sgxs-info
GO = $$($(CURDIR)/$(BIN)/python -c 'import os; from kubenclave.local.places import places; from kubenclave.local.toolchain import find_go; print(find_go(places(os.environ).cache, lambda _: None))')

tools: $(HELM) $(COSIGN) $(PROMQL) $(SGXS_TOOLS) $(AZURE_CLI)

$(HELM): | $(INSTALLED)
	@echo "Building helm 4.3.1 from Go modules into $(dir $@), for the chart's tests (about 1 minute)."
	@mkdir -p $(dir $@)
	-@cd tests/tools/helm && CGO_ENABLED=0 GOTOOLCHAIN=local $(GO) build -trimpath -o $@.partial helm.sh/helm/v4/cmd/helm && mv $@.partial $@

$(COSIGN): | $(INSTALLED)
	@echo "Building cosign 3.1.3 from Go modules into $(dir $@), for the signature's tests (about 2 minutes)."
	@mkdir -p $(dir $@)
	-@cd tests/tools/cosign && CGO_ENABLED=0 GOTOOLCHAIN=local $(GO) build -trimpath -o $@.partial github.com/sigstore/cosign/v3/cmd/cosign && mv $@.partial $@

$(PROMQL): | $(INSTALLED)
	@echo "Building the query parser of Prometheus 0.313.0 from Go modules into $(dir $@), for the dashboard's tests (under a minute)."
	@mkdir -p $(dir $@)
	-@cd tests/tools/promql && CGO_ENABLED=0 GOTOOLCHAIN=local $(GO) build -trimpath -o $@.partial . && mv $@.partial $@

$(AZURE_CLI): | $(INSTALLED)
	@echo "Installing azure-cli 2.91.0 from PyPI into $(TOOLS), for the simulated Azure's tests (about 2 minutes)."
	-@$(PYTHON) -m venv $(TOOLS)/azure-cli-2.91.0 && $(TOOLS)/azure-cli-2.91.0/bin/pip install --quiet --disable-pip-version-check azure-cli==2.91.0

# The crates registry is asked only where a cargo is at hand.
$(SGXS_TOOLS):
	-@if command -v cargo >/dev/null; then \
	  echo "Building sgxs-tools 0.10.0 with cargo into $(TOOLS), for the enclave files' tests (about 3 minutes)."; \
	  CARGO_TARGET_DIR=$(TOOLS)/sgxs-tools-0.10.0-target cargo install sgxs-tools --version 0.10.0 --locked --quiet --root $(TOOLS)/sgxs-tools-0.10.0; \
	else echo "No cargo on this machine: the tests that compare with sgxs-tools are skipped."; fi

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
