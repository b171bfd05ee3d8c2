# `make` lists the targets. They all use the environment in .venv, which `make setup` builds.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
# The requirement for torch. If the system's Python already has torch (such as a GPU build),
# `make setup TORCH=` uses it instead.
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# Processes that share the tests: as many as cores, but not so many that they fill the memory.
PYTEST := pytest --quiet --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 10
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Modules are compiled when they are first imported, which is faster than compiling every package.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup docs server repro show ui check lint types test test-fast readme lock upgrade clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/runtime ## build the environment in .venv (TORCH= uses the system's torch)

$(VENV)/runtime: requirements.lock tools/venv.pth pyproject.toml
	@echo "installing into $(VENV): about 2 GB, a minute or two"
	@$(PYTHON) -m venv $(if $(TORCH),,--system-site-packages) $(VENV)
	@$(PIP) --no-deps --requirement requirements.lock
	@$(if $(TORCH),$(PIP) $(TORCH))
	@$(PIP) --no-deps --no-build-isolation --editable .
	@cp tools/venv.pth "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/p-tuning.pth"
	@touch $@

$(VENV)/dev: $(VENV)/runtime requirements-dev.lock
	@$(PIP) --no-deps --requirement requirements-dev.lock
	@touch $@

docs: $(VENV)/docs ## build the documentation as a site in site/
	@rm -rf site .work/docs && mkdir -p .work/docs
	@git ls-files -z --cached --others --exclude-standard -- '*.md' '*.svg' '*.png' '*.cff' '*.yaml' LICENSE docs \
	  | xargs -0 cp --parents --target-directory .work/docs
	@NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict
	@echo "site/index.html"

$(VENV)/docs: $(VENV)/runtime requirements-docs.lock
	@$(PIP) --no-deps --requirement requirements-docs.lock
	@touch $@

server: $(VENV)/server ## add the packages of a shared server to .venv (docs/server.md)

$(VENV)/server: $(VENV)/runtime requirements-server.lock
	@$(PIP) --no-deps --requirement requirements-server.lock
	@touch $@

repro: setup ## run the whole pipeline, then show the results
	@dvc repro
	@$(MAKE) --no-print-directory show

show: setup ## print the result tables
	@ptune report show

ui: setup ## browse the MLflow history
	@ptune ui

check: lint types test ## run every check that a change must pass

lint: $(VENV)/dev ## check errors, style and formatting with ruff
	@ruff check
	@ruff format --check

types: $(VENV)/dev ## check types with mypy --strict
	@mypy

test: $(VENV)/dev ## all tests; no network needed
	@$(PYTEST)

test-fast: $(VENV)/dev ## without the tests that run pipelines, servers, or processes to kill
	@$(PYTEST) -m "not slow"

readme: setup ## write the results of the last run into README.md
	@ptune report readme

lock: ## update the lock files after a change of pyproject.toml; keeps other versions
	@bash tools/lock.sh "$(PYTHON)" "$(TORCH)"

upgrade: ## update the lock files to the newest versions that pyproject.toml allows
	@bash tools/lock.sh "$(PYTHON)" "$(TORCH)" --upgrade

clean: ## remove the environment and tool caches; keep results and history
	@rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis
