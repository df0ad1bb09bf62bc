# make demo, make test: each sets up .venv by itself. make help lists the rest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOCK := requirements/dev.lock
LIBRARIES := $(VENV)/.libraries-installed
STAMP := $(VENV)/.patchline-installed
CHAOS_CYCLES ?= 100
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?= all

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo demo-line test check format bench chaos lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv from the lock, if it is missing or the lock has changed

demo: $(STAMP) ## draw parts, fit a bank, start the daemon, push the parts and show the verdicts
	$(BIN)/patchline demo $(DEMO_ARGS)

demo-line: $(STAMP) ## two cameras, a kill -9 and a reload under way; ends with the account of every part
	$(BIN)/patchline demo --line $(DEMO_ARGS)

test: $(STAMP) ## run the tests
	$(BIN)/python -X faulthandler -m pytest -m "not chaos" $(PYTEST_ARGS)

check: $(STAMP) ## lint, format check and type check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## put the source into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## print the project's speed figures
	$(BIN)/patchline bench $(BENCH_ARGS)

chaos: $(STAMP) ## kill daemon and subscriber CHAOS_CYCLES times under load, then overload; account for every part
	$(BIN)/python -m tests.e2e.chaos --cycles $(CHAOS_CYCLES) --kill daemon
	$(BIN)/python -m tests.e2e.chaos --cycles $(CHAOS_CYCLES) --kill subscriber
	$(BIN)/python -m tests.e2e.chaos --cycles $(CHAOS_CYCLES) --kill both
	$(BIN)/python -m tests.e2e.chaos --cycles 10 --real-engine
	$(BIN)/python -m tests.e2e.chaos --overload 60

# Hashes cover every platform's wheels; the lock names versions and no index, so any mirror of PyPI serves it.
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --strip-extras --no-annotate --custom-compile-command "make lock"

lock: $(STAMP) ## write the newest versions that pyproject.toml allows into requirements/*.lock
	$(BIN)/python -m pip install --quiet uv
	$(UV_COMPILE) --upgrade --extra dev pyproject.toml --output-file $(LOCK)
	$(UV_COMPILE) --extra build --extra lite0 --extra openvino --constraints $(LOCK) pyproject.toml --output-file requirements/runtime.lock

clean: ## remove .venv, caches and the demo's output
	rm -rf $(VENV) demo-output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): $(LIBRARIES) pyproject.toml
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation \
		--no-warn-script-location --editable .
	@touch $@

$(LIBRARIES): $(LOCK) requirements/link_libgomp.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
		echo "error: patchline needs Python 3.11 or 3.12 and $(PYTHON) is another, or absent." \
			"Name one that is there: make PYTHON=python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "Making $(VENV) ..."; rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } || { \
		echo "error: $(PYTHON) can't make a virtual environment. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Loading the locked libraries: about 1 GB the first time, most of it mindspore. Each file is named with its size."
	@$(BIN)/python -m pip install --disable-pip-version-check --only-binary :all: --require-hashes -r $(LOCK)
	@$(BIN)/python requirements/link_libgomp.py
	@touch $@
