.DEFAULT_GOAL := help
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Bytecode is written, whatever the caller's environment says: tests start Python hundreds of times.
export PYTHONDONTWRITEBYTECODE :=

# Without plugins that only integration tests use: every worker would load them.
UNIT := $(BIN)/pytest tests/unit -n auto -p no:schemathesis -p no:anyio

.PHONY: help setup venv quickstart test unit integration lint docs bench fuzz lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## install the operating system's packages and the virtual environment
	./scripts/setup-os.sh
	$(MAKE) --no-print-directory venv

venv: $(BIN)/.installed ## make the virtual environment only

$(BIN)/.installed: pyproject.toml requirements.lock
	./scripts/setup-venv.sh $(VENV) $(PYTHON)
	@touch $@

quickstart: setup ## bare machine to attested TD
	$(BIN)/tdxctl quickstart $(ARGS)

test: setup ## lint is separate; this runs every test
	./scripts/setup-os.sh --tests
	$(UNIT) -m "not processes"
	$(UNIT) -m processes
	$(BIN)/pytest tests/integration -m "not slow" -n 2 --dist loadfile

unit: venv ## unit tests that start no programs
	$(UNIT) -m "not processes"

integration: setup ## tests that boot TDs and start services
	./scripts/setup-os.sh --tests
	$(BIN)/pytest tests/integration -m "not slow" -n 2 --dist loadfile

lint: venv ## ruff, mypy, pyright, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: venv ## build the documentation into docs/_build
	$(BIN)/sphinx-build -W -b html docs docs/_build

bench: setup ## benchmarks; figures are printed
	./scripts/setup-os.sh --tests
	$(BIN)/python -m benchmarks

fuzz: venv ## fuzz every target with atheris for ten minutes, or one: make fuzz TARGET=quote SECONDS=600
	$(VENV)/bin/uv pip install --quiet "atheris>=3"
	PYTHONPATH=src:tests $(BIN)/python -m fuzz.run $(or $(TARGET),all) $(or $(SECONDS),600)

lock: ## write requirements.lock anew from pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --extra services --extra deploy --extra kubernetes --extra tests --group dev --group docs pyproject.toml -o requirements.lock

clean: ## remove what was built in this checkout
	rm -rf $(VENV) build dist docs/_build .mypy_cache .ruff_cache .pytest_cache
