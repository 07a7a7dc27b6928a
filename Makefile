# Everything a person does with this repository. `make` alone lists it.
#
# Nothing but Python 3.11+ and make is needed: every other tool comes from the two lock files, into .venv.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# What a failing `python3` is answered with, before anything is written to disk.
WANT_PYTHON = ZueBee needs Python 3.11 or newer, with its venv module (Debian: python3-venv). \
	'$(PYTHON)' is not one; name another: make PYTHON=python3.12 install

# The hot path compiled to C (CONTRIBUTING.md): a wheel unpacked, and itself in a folder .wheel.
COMPILED := .cache/compiled
WHEEL = $(PIP) wheel --no-deps --no-index --no-build-isolation --no-cache-dir

##@ Use

.PHONY: run
run: install ## Start the gate with a simulated model server behind it; prints address, key and a curl line
	@$(BIN)/zuebee run --demo $(ARGS)

.PHONY: install
install: $(VENV)/.installed ## Put the locked packages and the `zuebee` command into .venv

.PHONY: wheel
wheel: compiled ## Build a wheel for this machine into dist/, its hot path compiled where a C compiler is found
	@mkdir -p dist && rm -f dist/zuebee-*.whl
	@if [ -e $(COMPILED)/.done ]; then cp $(COMPILED)/.wheel/*.whl dist; else $(WHEEL) --wheel-dir dist .; fi
	@ls -t dist/*.whl | head -1

.PHONY: vllm
vllm: ## Install and serve a real vLLM on the CPU with a tiny model
	@$(PYTHON) scripts/vllm/serve.py $(ARGS)

##@ Work on it

# Many a container sets this. Then each worker, and each process that a test starts, compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

# Each promise is tested once and where it counts. On the sources: all that is quick, which is `make check` too. On what was
# compiled: the rooms that have compiled modules, what is slow in them, and the simulations. Tests marked `plain` change what
# cannot be changed there, so they stay on the sources, slow or not. Without a compiler all of it runs on the sources.
PYTEST = $(BIN)/python -m pytest --dist worksteal
# Folders of these tests are in memory where there is room for it: their many small stores wait for no disk. Nobody cuts the
# power there; who does so, and all scenarios, have the disk.
IN_MEMORY = $(shell [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'END { print int($$4) }')" -gt 1000000 ] && echo TMPDIR=/dev/shm)
SIDE_BY_SIDE = not proof and not alone
ROOMS = admission auth billing dialects dispatch edge http ledger lib limits models telemetry usage
ON_SOURCES = $(IN_MEMORY) $(PYTEST) --numprocesses 2
ON_COMPILED = $(IN_MEMORY) $(PYTEST) -m "$(SIDE_BY_SIDE) and not plain" --numprocesses 4 -o pythonpath="$(COMPILED) ." \
	tests/simulation $(ROOMS:%=tests/unit/%)
# Of the time of a scenario, and of what is slow, more than half is waiting, so there are more of them at a time.
SCENARIOS = $(PYTEST) -m "$(SIDE_BY_SIDE)" --numprocesses 4
# Scenarios run what was compiled; these run the sources as well, which is what a newcomer starts.
STORIES = readme first_request spending client_gone openai_package

# Tests marked `alone` watch clocks or the load of the machine: they come last, one after the other. Only their files are
# collected, which is much quicker than to collect all.
WITH_ALONE = tests/unit tests/simulation tests/scenarios tests/proofs
.PHONY: test
test: $(VENV)/.installed-dev static ## Run everything that continuous integration runs
	@rm -f .cache/requirements.json
	@$(MAKE) --no-print-directory --jobs 2 compiled on-sources
	@if [ -e $(COMPILED)/.done ]; then set -ex; \
		$(ON_COMPILED) $(ARGS); \
		TEST_PLAIN=1 $(SCENARIOS) $(STORIES:%=tests/scenarios/test_%.py) $(ARGS); \
	else set -ex; \
		$(ON_SOURCES) -m "$(SIDE_BY_SIDE) and slow and not plain" tests/unit tests/simulation $(ARGS); \
	fi
	$(SCENARIOS) tests/scenarios tests/proofs $(ARGS)
	$(BIN)/python -m pytest -m "alone and not proof" $$(grep -rl --include='test_*.py' 'mark\.alone' $(WITH_ALONE)) $(ARGS)

.PHONY: check
check: $(VENV)/.installed-dev style ## Run the checks of a minute: ruff, mypy, import-linter, house rules, quick unit tests
	@$(MAKE) --no-print-directory --jobs 2 types quick

.PHONY: quick
quick: $(VENV)/.installed-dev
	$(ON_SOURCES) -m "$(SIDE_BY_SIDE) and not slow" --quiet tests/house tests/unit $(ARGS)

.PHONY: on-sources
on-sources: $(VENV)/.installed-dev
	$(ON_SOURCES) -m "$(SIDE_BY_SIDE) and (plain or not slow)" tests/house tests/unit tests/simulation $(ARGS)

.PHONY: static style types
static: style types
style: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
types: $(VENV)/.installed-dev
	$(BIN)/mypy

.PHONY: coverage
coverage: $(VENV)/.installed-dev ## Measure which lines of each room its unit tests pass, beside its floor in pyproject.toml
	$(PYTEST) -m "$(SIDE_BY_SIDE)" --numprocesses 2 --quiet --cov=zuebee --cov-report= tests/unit $(ARGS)
	$(BIN)/python scripts/check_coverage.py

.PHONY: proof
proof: $(VENV)/.installed-dev compiled coverage ## Run the long proofs (half an hour) and print their figures (docs/proofs.md)
	$(BIN)/python -m pytest -m proof -s $(ARGS)

.PHONY: requirements
requirements: $(VENV)/.installed-dev ## List the acceptance rows of this milestone: proven by a passing test, or not yet
	@$(BIN)/python -m tests.support.acceptance $(ARGS)

.PHONY: bench
bench: install compiled ## Measure CPU per request and per streamed chunk beside nginx, Envoy and LiteLLM where installed
	@$(BIN)/python -m bench $(ARGS)

.PHONY: compiled
compiled: $(COMPILED)/.done ## Compile the hot path where a C compiler is found: PYTHONPATH=.cache/compiled runs it

.PHONY: docs
docs: $(VENV)/.installed-dev ## Rewrite the references of settings and metrics (docs/) from the code
	@$(BIN)/python scripts/make_docs.py

.PHONY: protos
protos: $(VENV)/.installed-dev ## Rewrite the messages of the gRPC APIs (src/zuebee/protos) from proto/
	@$(BIN)/python scripts/make_protos.py

.PHONY: bench-peers
bench-peers: ## Install Envoy and LiteLLM for `make bench` into a folder of their own
	@sh bench/install_peers.sh

.PHONY: structure
structure: $(VENV)/.installed-dev ## Rewrite the project structure (docs/structure.md) from the tree
	@$(BIN)/python -m tests.support.structure

# ARGS=--upgrade moves every pin to its newest release; without it only what pyproject.toml changed moves.
# The files hold names, versions and hashes; no address, so that they install from any index.
LOCK = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(ARGS)

.PHONY: prices
prices: $(VENV)/.installed-dev ## Rewrite the list prices that ship with ZueBee from the data of genai-prices
	@$(BIN)/python scripts/make_prices.py

.PHONY: lock
lock: $(VENV)/.installed-dev ## Resolve pyproject.toml into requirements.txt and requirements-dev.txt, with hashes
	$(LOCK) --group build --output-file requirements.txt
	$(LOCK) --group dev --constraints requirements.txt --output-file requirements-dev.txt

.PHONY: clean
clean: ## Remove .venv and the caches
	rm -rf $(VENV) dist .cache .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamps. A lock that did not change costs nothing; a changed one is installed over what is there.

$(BIN)/pip:
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "$(WANT_PYTHON)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt pyproject.toml | $(BIN)/pip
	$(PIP) install --require-hashes --requirement requirements.txt
	$(PIP) install --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) install --require-hashes --requirement requirements-dev.txt
	@touch $@

# Prints what this Python lacks to compile: the C compiler that it was built with (or CC), or its Python.h.
define MISSING
import os, shlex, shutil, sysconfig
compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
header = os.path.join(sysconfig.get_path("include"), "Python.h")
missing = [name for name, there in ((compiler, shutil.which(compiler)), (header, os.path.exists(header))) if not there]
print(" and ".join(missing))
endef
export MISSING

# The stamp has the time of the beginning: a source that is saved meanwhile is younger. Without a compiler there is
# no stamp, so that one that comes later is used. Continuous integration must test what is compiled.
$(COMPILED)/.done: $(shell find src/zuebee -type f -not -path '*/__pycache__/*') setup.py pyproject.toml \
		$(VENV)/.installed-dev
	@mkdir -p .cache && touch .cache/begun
	@rm -rf .cache/wheel .cache/build/lib* $@
	@missing=$$($(BIN)/python -c "$$MISSING") || exit 1; \
	if [ -n "$$missing" ]; then \
		rm -rf $(COMPILED) && mkdir $(COMPILED); \
		echo "Not compiled, for want of $$missing: all runs on plain Python." >&2; \
		[ "$$TEST_REQUIRE_SERVERS" != 1 ] || { echo "TEST_REQUIRE_SERVERS=1 asks for it." >&2; exit 1; }; \
	else \
		echo "Compiling the hot path, which takes a minute or two." && \
		ZUEBEE_COMPILE=1 $(WHEEL) --wheel-dir .cache/wheel . && \
		rm -rf $(COMPILED) && \
		$(PIP) install --no-deps --no-index --target $(COMPILED) .cache/wheel/*.whl && \
		mv .cache/wheel $(COMPILED)/.wheel && mv .cache/begun $@; \
	fi
