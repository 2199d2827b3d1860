# Everything a developer types. Relative paths only: make cannot quote, and a clone's path may have a space.
# Knobs, in the environment or behind the target: HOST PORT DATA_DIR WEB_CONCURRENCY DATABASE_URL REDIS_URL PYTHON ARGS

PYTHON ?= python3
PY := .venv/bin/python
# Each test process runs on servers of its own; more of them than this wins nothing.
TEST_PROCESSES ?= auto
LOCK_OPTIONS := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help run demo test test-faults test-money test-schema check fmt lock bench clean venv

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run: venv ## Run everything: servers, migrations, demo data, API, workers (PORT=8001, DATA_DIR=..., DATABASE_URL=...)
	@exec $(PY) -m app.cli dev

demo: venv ## Tell the story of one cashback against the running `make run`
	@exec $(PY) -m app.cli demo $(ARGS)

test: venv ## Run all tests on embedded servers (ARGS="-k wallet")
	@$(PY) -m pytest -n $(TEST_PROCESSES) --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not fault" $(ARGS)
	@$(PY) -m pytest -n 2 --dist loadfile -m fault $(ARGS)

test-faults: venv ## Run only the tests that stop, freeze or kill servers and processes (FAULTS=full: the whole load)
	@FAULT_SCALE=$(FAULTS) $(PY) -m pytest -n 2 --dist loadfile -m fault $(ARGS)

test-money: venv ## Try 10,000 random lives of money against every invariant (hours; MONEY_MACHINE_EXAMPLES=... for fewer)
	@MONEY_MACHINE_EXAMPLES=$${MONEY_MACHINE_EXAMPLES:-10000} $(PY) -m pytest -n 0 tests/money/test_machine.py $(ARGS)

test-schema: venv ## Try the API against its OpenAPI document for long (SCHEMA_EXAMPLES=30 SCHEMA_PHASES=... SCHEMA_SEED=1)
	@SCHEMA_EXAMPLES=$${SCHEMA_EXAMPLES:-30} $(PY) -m pytest -n 0 -s tests/schema $(ARGS)

check: venv ## Check format, lint, types, layers, migrations, secrets and dependencies, as CI does (AUDIT=required)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m app.cli check-migrations
	$(PY) -m tools.secret_scan
	$(PY) -m tools.audit

fmt: venv ## Format the code and mend what the linter can mend
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

lock: ## Resolve both requirements.lock files anew (ARGS=--upgrade for newer versions)
	@set -e; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(PYTHON) -m venv "$$scratch/venv"; \
	"$$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv; \
	"$$scratch/venv/bin/python" -m uv pip compile pyproject.toml --all-extras $(LOCK_OPTIONS) $(ARGS) \
		--output-file requirements.lock; \
	"$$scratch/venv/bin/python" -m uv pip compile pyproject.toml --constraint requirements.lock $(LOCK_OPTIONS) \
		--output-file deploy/requirements.lock

bench: venv ## Measure this machine against baselines in the same run (ONLY="reads mix scale soak storm sync webhooks")
	@$(PY) -m benchmarks $(ONLY)

clean: ## Remove .venv, caches and the development data in .data
	@if [ -e .data/dev.json ]; then echo "Stop 'make run' first (was it killed? then remove .data/dev.json)." >&2; exit 1; fi
	rm -rf .venv .data .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis .import_linter_cache dist
	find app tests migrations benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Made again when the lock's content or the clone's place changes, or its Python is gone.
venv:
	@set -e; \
	want="$$(cksum < requirements.lock) $$(pwd)"; project="$$(cksum < pyproject.toml)"; \
	if [ "$$want" != "$$(cat .venv/lock-stamp 2>/dev/null)" ] || ! $(PY) -c '' 2>/dev/null; then \
		command -v $(PYTHON) >/dev/null || { \
			echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; \
			exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); 3.11 or newer is needed. Name one: make PYTHON=python3.12" >&2; \
			exit 1; }; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; \
			exit 1; }; \
		echo "Installing the locked requirements into .venv ..."; \
		rm -rf .venv; \
		$(PYTHON) -m venv .venv; \
		$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
		echo "$$want" > .venv/lock-stamp; \
	fi; \
	if [ "$$project" != "$$(cat .venv/project-stamp 2>/dev/null)" ]; then \
		$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
		echo "$$project" > .venv/project-stamp; \
	fi
