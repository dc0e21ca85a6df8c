# Everything is done through these targets; `make help` lists them.
# Needs python3 (3.11 or newer, with venv) and, for the first installation, a network to PyPI.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Many tests time real processes, and a crowded machine can make one late: it has a second chance, and the closing line
# counts it as "rerun". Use PYTEST_ARGS="-n auto" to see every first failure.
PYTEST_ARGS ?= -n auto --reruns 1

.DEFAULT_GOAL := help
.PHONY: help run test compile check screenshots soak lint types format migrate bench bench-all bench-pages clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Compiles the hot path unless there is a build of these very sources, which their hashes decide, not their times. What
# that needs is installed only where there is a C compiler.
COMPILE = $(BIN)/python compiled.py fits || { $(BIN)/python compiled.py able && $(MAKE) --no-print-directory .make/build \
  && $(BIN)/python compiled.py; }

run: .make/runtime data ## Install what is needed and serve on 127.0.0.1:5000
	@[ "$$COMPILED" = off ] || { $(COMPILE); } || true
	@exec $(BIN)/python main.py

test: .make/dev ## Install what is needed and run all tests
	@$(COMPILE) || true
	@$(BIN)/python -m tests.browser.chromium
	$(BIN)/pytest $(PYTEST_ARGS)

compile: .make/runtime ## Compile the hot path (run and test do it too)
	@$(COMPILE)

check: lint types test ## Style, types and tests: what must be green before a change goes in

screenshots: .make/dev ## Every page in both sizes and themes, into screenshots/
	@$(BIN)/python -m tests.browser.chromium
	$(BIN)/python -m tests.browser.screenshots

soak: .make/dev ## Ten minutes of mixed load with faults: everything is recorded, nothing is left behind
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

lint: .make/dev ## Style and layout of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .make/dev ## Static types
	$(BIN)/mypy

format: .make/dev ## Lay the code out and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

migrate: .make/runtime data ## Bring the database of .env up to date (starting the server does it too)
	@$(BIN)/python -c "import os, dotenv; dotenv.load_dotenv(); from app.config import Config; \
	from app.storage.database import Database; from app.vault import Vault; \
	config = Config.from_env(os.environ); database = Database(config.database_url); \
	database.migrate(Vault.open(config)); database.close()"

bench: .make/runtime ## Compare with nginx in two to three minutes; bench/README.md says what it needs
	@$(COMPILE) || true
	@$(BIN)/python -m bench

bench-all: .make/runtime ## Measure everything and write bench/RESULTS.md
	@$(COMPILE) || true
	@$(BIN)/python -m bench all

bench-pages: .make/runtime ## Measure the first view of each page with a million requests; writes bench/PAGES.md
	@$(BIN)/python -m bench.pages

clean: ## Remove what can be made again; data/ and .env stay
	rm -rf $(VENV) .make .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- installation: one stamp for each list of requirements, so that repeated runs start at once --------

.make/runtime: requirements.txt $(VENV)/pyvenv.cfg
	@echo "Installing the runtime ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@mkdir -p .make && touch $@

.make/build: requirements-build.txt requirements.txt $(VENV)/pyvenv.cfg
	@echo "Installing what compiles the hot path ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-build.txt
	@mkdir -p .make && touch $@ .make/runtime

.make/dev: requirements-dev.txt requirements-build.txt requirements.txt $(VENV)/pyvenv.cfg
	@echo "Installing the runtime and what the tests need ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@mkdir -p .make && touch $@ .make/build .make/runtime

$(VENV)/pyvenv.cfg:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON). Install Python 3.11 or newer, or name yours: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is older. Name a newer one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@rm -rf .make

data:
	@mkdir -p -m 700 data
