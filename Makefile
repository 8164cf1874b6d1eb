# The verbs of this repository. Everything is installed into .venv; nothing but the package index is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint slow bench docs clean

setup: $(VENV)/installed  ## install papertune and all it needs into .venv

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[demo,docling,dev]"
	touch $@

demo: setup  ## the four steps on six small papers with a toy model, without a GPU or an account
	$(BIN)/papertune demo

test: setup  ## all tests that need no GPU and no network
	$(BIN)/python -m pytest --quiet

lint: setup  ## style and types
	$(BIN)/ruff check
	$(BIN)/mypy

slow: setup  ## the tests that take minutes
	$(BIN)/python -m pytest --quiet -m "slow and not gpu"

bench: setup  ## speed and memory; rows go to benchmarks/results.jsonl
	$(BIN)/python -m benchmarks

docs: setup  ## the command reference in docs/commands.md
	$(BIN)/python docs/write_commands.py

clean:  ## what the demo and the installation made
	rm -rf $(VENV) demo
