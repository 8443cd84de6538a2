PYTHON ?= python3
BIN := .venv/bin

# Two processes share two cores, in the tests and in training: threads beside them would only wait for each other.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test

demo: .venv/installed
	$(BIN)/python examples/demo/run.py

test: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -m "not slow"

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
