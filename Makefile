# `make` lists the targets. All of them use the environment in .venv, which `make setup` builds.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# What pip installs as torch. A machine with a torch of its own (a GPU build in the system's Python)
# uses that one with `make setup TORCH=`.
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Modules are compiled as they are first imported: faster than compiling all that is installed.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup server repro show ui check lint types test test-fast readme lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/runtime ## build the environment in .venv (TORCH= takes the system's torch)

$(VENV)/runtime: requirements.lock
	@echo "installing into $(VENV): about 2 GB, a minute or two"
	@$(PYTHON) -m venv $(if $(TORCH),,--system-site-packages) $(VENV)
	@$(if $(TORCH),$(PIP) --constraint requirements.lock $(TORCH))
	@$(PIP) --no-deps --requirement requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: $(VENV)/runtime requirements-dev.lock
	@$(PIP) --no-deps --requirement requirements-dev.lock
	@touch $@

server: $(VENV)/server ## add to .venv what a shared server needs (docs/server.md)

$(VENV)/server: $(VENV)/runtime requirements-server.lock
	@$(PIP) --no-deps --requirement requirements-server.lock
	@touch $@

repro: setup ## run the whole pipeline, then show the results
	@dvc repro
	@$(MAKE) --no-print-directory show

show: setup ## print the result tables
	@ptune report show

ui: setup ## browse the MLflow history on http://127.0.0.1:5000
	@test -f mlflow.db || (echo "error: no history yet (mlflow.db); run 'make repro' first"; exit 1)
	@echo "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning   (Ctrl-C ends it)"
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true mlflow server \
		--backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000 --workers 1

check: lint types test ## everything that must pass before a change goes in

lint: $(VENV)/dev ## ruff: errors, style, format
	@ruff check
	@ruff format --check

types: $(VENV)/dev ## mypy, strict
	@mypy

test: $(VENV)/dev ## all tests; no network needed
	@pytest --quiet --numprocesses 2 --dist loadfile

test-fast: $(VENV)/dev ## the tests that run no whole pipeline
	@pytest --quiet --numprocesses 2 --dist loadfile -m "not slow"

readme: setup ## write the results of the last run into README.md
	@ptune report readme

lock: ## pin the newest versions that pyproject.toml allows
	@bash tools/lock.sh "$(PYTHON)" "$(TORCH)"

clean: ## remove the environment and what tools left; results and history stay
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
