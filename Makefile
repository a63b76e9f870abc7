# `make demo` and `make test` are all a clone needs; the virtual environment is made on the way.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check docs soak

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: .venv/installed
	$(BIN)/python -m examples.shapes.demo --output_dir out/demo

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: .venv/installed check
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

docs: .venv/installed
	$(BIN)/mkdocs build --strict

soak: .venv/installed
	$(BIN)/python -m tests.soak --kills 30 --processes 1
	$(BIN)/python -m tests.soak --kills 30 --processes 2
