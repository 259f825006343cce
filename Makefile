# Everything a developer runs. `make help` lists it. Nothing but Python 3.10+, pip and make
# has to be there: `make dev` fetches the rest into .venv.

PYTHON ?= python3
# For two cores: more than half of the time the tests wait, for processes to start and for time to pass.
WORKERS ?= 5
ARGS ?=
EXTRA ?= dev

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made
PIP := -m pip --disable-pip-version-check install -qq

.DEFAULT_GOAL := help
.PHONY: help dev demo test axe faults rq-suite rq-tools test-all lint types bench docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 14

dev: $(STAMP)  ## make .venv with everything (again when pyproject.toml changed)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "taskq needs Python 3.10 or newer; try: make dev PYTHON=python3.12"; exit 1; }
	@echo "make dev: installing taskq and its tools into $(VENV) (about a minute the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) --editable '.[$(EXTRA)]'
	@touch $@
	@echo "make dev: done. Try $(BIN)/taskq --help, make test, make demo."

demo: $(STAMP)  ## the main job on real input, with an embedded Redis
	@$(BIN)/taskq demo $(ARGS)

test: $(STAMP)  ## the whole test suite in parallel (ARGS="-k name" for a part of it)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

axe: $(STAMP)  ## axe-core for the test of accessibility, from npm (fetched)
	@$(BIN)/python tests/browser/fetch_axe.py

rq-suite: $(STAMP)  ## RQ's own test suite with our Worker in it (fetched; ARGS="--mode ours tests/test_worker.py")
	@$(BIN)/python -m tests.rq_suite $(ARGS)

# Each brings an RQ of its own, rq-exporter 3.1 an older one; rq-dashboard 0.9 forgets to name six.
rq-tools: $(STAMP)  ## rq-exporter and rq-dashboard on what our worker writes (fetched)
	@for tool in rq-exporter rq-dashboard; do \
	  test -x .venv-$$tool/bin/$$tool || { $(PYTHON) -m venv .venv-$$tool && \
	    .venv-$$tool/bin/python $(PIP) $$tool six; } || exit 1; \
	done
	@$(BIN)/python -m pytest tests/integration/test_rq_tools.py $(ARGS)

# An interpreter counts if it runs: pyenv's command for one that is not switched on does not, and
# is then looked for where pyenv keeps it.
faults: $(STAMP)  ## long campaigns: kills, cuts and outages at random moments (several minutes)
	@$(BIN)/python -m pytest tests/faults -n $(WORKERS) --dist worksteal $(ARGS)

test-all:  ## the test suite on each of Python 3.10 to 3.13 that this machine has
	@missing=; failed=; \
	for version in 3.10 3.11 3.12 3.13; do \
	  found=; \
	  for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
	    if [ -z "$$found" ] && "$$python" -c '' 2>/dev/null; then found=$$python; fi; \
	  done; \
	  if [ -z "$$found" ]; then missing="$$missing $$version"; continue; fi; \
	  echo "== Python $$version"; \
	  $(MAKE) --no-print-directory PYTHON="$$found" VENV=.venv-$$version EXTRA=test test \
	    || failed="$$failed $$version"; \
	done; \
	[ -z "$$missing" ] || echo "not on this machine:$$missing"; \
	[ -z "$$failed" ] || { echo "failed on:$$failed"; exit 1; }

lint: $(STAMP)  ## ruff: rules and format
	@$(BIN)/ruff check $(ARGS) .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted; run: $(BIN)/ruff format ."; exit 1; }

# Neither checker can follow the package mapping of an editable install, so they get a tree of
# links in the shape of the installed package. Both always run, to see all at once.
types: $(STAMP)  ## mypy --strict and pyright in strict mode
	@rm -rf .types && mkdir -p .types/taskq
	@for path in taskq/*; do ln -s ../../$$path .types/taskq/; done
	@ln -s ../../worker ../../dashboard .types/taskq/
	@status=0; $(BIN)/mypy || status=1; \
	  $(BIN)/python -m pyright --warnings || status=1; exit $$status

bench: $(STAMP)  ## taskq beside its peers: tables and plots (long; ARGS="--smoke" for a quick one)
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(STAMP)  ## run the examples in README.md and docs/
	@$(BIN)/python docs/run_examples.py $(ARGS)

clean:  ## remove everything that make made
	rm -rf $(VENV) .venv-* .types .axe build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
