# make demo, make test: each sets up .venv by itself. make help lists the rest.

PYTHON ?= python3
VENV ?= .venv
PEERS_VENV ?= .venv-peers
BIN := $(VENV)/bin
LOCK := requirements/dev.lock
LIBRARIES := $(VENV)/.libraries-installed
STAMP := $(VENV)/.patchline-installed
PEERS_STAMP := $(PEERS_VENV)/.peers-installed
CHAOS_CYCLES ?= 100
SOAK_MINUTES ?= 30
SOAK_ARGS ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?= all
PEERS_ARGS ?=
AUDIT_VENV ?= .venv-audit
MUTANTS_VENV ?= .venv-mutants
AUDIT_STAMP := $(AUDIT_VENV)/.audit-installed
MUTANTS_STAMP := $(MUTANTS_VENV)/.mutmut-installed
AUDIT_ARGS ?=
FUZZ_LIBRARIES ?= .venv-fuzz
FUZZ_STAMP := $(FUZZ_LIBRARIES)/.fuzz-installed
FUZZ_SECONDS ?= 60
FUZZ_BANKS ?= 10000

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo demo-line test mutants check audit format bench bench-peers chaos soak fuzz lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv from the lock, if it is missing or the lock has changed

demo: $(STAMP) ## draw parts, fit a bank, start the daemon, push the parts and show the verdicts
	$(BIN)/patchline demo $(DEMO_ARGS)

demo-line: $(STAMP) ## two cameras, a kill -9 and a reload under way; ends with the account of every part
	$(BIN)/patchline demo --line $(DEMO_ARGS)

test: $(STAMP) ## run the tests; COVERAGE=1 measures branch coverage, child processes too, and wants 90 %
ifdef COVERAGE
	@rm -rf .coverage
	$(BIN)/python -X faulthandler -m coverage run -m pytest -m "not chaos" $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	@rm -f .coverage/data.* # of processes that were killed while they wrote
	$(BIN)/coverage report
else
	$(BIN)/python -X faulthandler -m pytest -m "not chaos" $(PYTEST_ARGS)
endif

mutants: $(STAMP) $(MUTANTS_STAMP) ## change scoring, calibration, scheduler and journal a thousandfold; the tests must notice
	$(MUTANTS_VENV)/bin/python -m mutmut run --max-children 1
	$(MUTANTS_VENV)/bin/python -m mutmut results

check: $(STAMP) ## lint, format check, type check, and a look for what is insecure
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m bandit --quiet --configfile pyproject.toml --recursive patchcore_engine daemon

audit: $(STAMP) $(AUDIT_STAMP) ## look every locked library up in the database of known faults; needs the internet
	@for lock in runtime dev; do \
		echo "requirements/$$lock.lock:"; \
		$(AUDIT_VENV)/bin/pip-audit --requirement requirements/$$lock.lock --require-hashes --disable-pip --strict \
			--progress-spinner off --timeout 20 $(AUDIT_ARGS) 2>$(AUDIT_VENV)/errors && continue; \
		if grep -q "^Found " $(AUDIT_VENV)/errors; then cat $(AUDIT_VENV)/errors >&2; exit 1; fi; \
		tail -n 1 $(AUDIT_VENV)/errors >&2; \
		echo "error: the database could not be asked, so NOTHING WAS AUDITED. make audit needs the open internet" \
			"(PyPI's; AUDIT_ARGS='-s osv' asks OSV's instead)." >&2; exit 1; \
	done

format: $(STAMP) ## put the source into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## print the project's speed figures
	$(BIN)/patchline bench $(BENCH_ARGS)

bench-peers: $(STAMP) $(PEERS_STAMP) ## anomalib's PatchCore beside ours, from an environment of its own
	$(BIN)/python -m tests.benchmarks.peers --peers-python $(PEERS_VENV)/bin/python $(PEERS_ARGS)

chaos: $(STAMP) ## kill daemon and subscriber CHAOS_CYCLES times under load, then overload; account for every part
	$(BIN)/python -m tests.e2e.chaos --cycles $(CHAOS_CYCLES) --kill daemon
	$(BIN)/python -m tests.e2e.chaos --cycles $(CHAOS_CYCLES) --kill subscriber
	$(BIN)/python -m tests.e2e.chaos --cycles $(CHAOS_CYCLES) --kill both
	$(BIN)/python -m tests.e2e.chaos --cycles $(CHAOS_CYCLES) --kill both --keys
	$(BIN)/python -m tests.e2e.chaos --cycles $(CHAOS_CYCLES) --kill daemon --faults 40
	$(BIN)/python -m pytest -m chaos
	$(BIN)/python -m tests.e2e.chaos --cycles 10 --real-engine
	$(BIN)/python -m tests.e2e.chaos --overload 60

soak: $(STAMP) ## SOAK_MINUTES at nine tenths of the capacity with all that happens in a shift; report in soak-output/
	$(BIN)/python -m tests.e2e.soak --minutes $(SOAK_MINUTES) $(SOAK_ARGS)

fuzz: $(STAMP) $(FUZZ_STAMP) ## feed every parser for FUZZ_SECONDS each, then try to load FUZZ_BANKS damaged banks
	PYTHONPATH=$(FUZZ_LIBRARIES) $(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)
	$(BIN)/python -m tests.engine.damaged_banks --count $(FUZZ_BANKS)

# Hashes cover every platform's wheels; the lock names versions and no index, so any mirror of PyPI serves it.
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --strip-extras --no-annotate --custom-compile-command "make lock"

lock: $(STAMP) ## write the newest versions that pyproject.toml allows into requirements/*.lock
	$(BIN)/python -m pip install --quiet uv
	$(UV_COMPILE) --upgrade --extra dev pyproject.toml --output-file $(LOCK)
	$(UV_COMPILE) --extra build --extra lite0 --extra openvino --constraints $(LOCK) pyproject.toml --output-file requirements/runtime.lock
	echo pip-audit | $(UV_COMPILE) --upgrade --output-file requirements/audit.lock -
	echo 'atheris<3.1' | $(UV_COMPILE) --upgrade --output-file requirements/fuzz.lock - # 3.1 has no wheel for Python 3.11

clean: ## remove .venv, caches and the demo's output
	rm -rf $(VENV) $(PEERS_VENV) $(AUDIT_VENV) $(MUTANTS_VENV) mutants $(FUZZ_LIBRARIES) demo-output soak-output fuzz-output build dist *.egg-info .pytest_cache \
		.mypy_cache .ruff_cache .hypothesis .coverage
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

$(AUDIT_STAMP): requirements/audit.lock
	@echo "Making $(AUDIT_VENV) with pip-audit ..."
	@rm -rf $(AUDIT_VENV)
	@$(PYTHON) -m venv $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python -m pip install --disable-pip-version-check --quiet --only-binary :all: --require-hashes \
		-r requirements/audit.lock
	@touch $@

# It borrows the libraries of $(VENV).
$(MUTANTS_STAMP): | $(STAMP)
	@echo "Making $(MUTANTS_VENV) with mutmut ..."
	@rm -rf $(MUTANTS_VENV)
	@$(PYTHON) -m venv $(MUTANTS_VENV)
	@$(MUTANTS_VENV)/bin/python -m pip install --disable-pip-version-check --quiet mutmut==3.8.1
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(MUTANTS_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/libraries.pth
	@touch $@

# torch goes first and by its exact version, torchvision without what it asks for: both would bring a GPU's libraries.
$(PEERS_STAMP): | $(STAMP)
	@echo "Making $(PEERS_VENV) with anomalib: about 1 GB ..."
	@rm -rf $(PEERS_VENV)
	@$(PYTHON) -m venv $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python -m pip install --disable-pip-version-check --quiet torch==2.13.0
	@$(PEERS_VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps torchvision==0.29.2
	@$(PEERS_VENV)/bin/python -m pip install --disable-pip-version-check --quiet \
		torch==2.13.0 anomalib==2.7.0 openvino==2026.4.1 onnx onnxscript
	@touch $@

# Beside .venv's own libraries, so that the fuzzed parsers are those of every other run.
$(FUZZ_STAMP): requirements/fuzz.lock | $(STAMP)
	@echo "Loading atheris: 35 MB ..."
	@rm -rf $(FUZZ_LIBRARIES)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --only-binary :all: --require-hashes --no-deps \
		--target $(FUZZ_LIBRARIES) -r requirements/fuzz.lock
	@touch $@
