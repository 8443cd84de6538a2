PYTHON ?= python3
BIN := .venv/bin

# Two processes share two cores, in the tests and in training: threads beside them would only wait for each other.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test docs

demo: .venv/installed
	$(BIN)/python examples/demo/run.py

test: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -m "not slow"

# The pages of docs/ and of the zoo, in site/. Only installing what builds them needs the network.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
