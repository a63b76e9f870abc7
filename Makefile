# `make demo` and `make test` are all a clone needs; the virtual environment is made on the way,
# with the versions of constraints/newest.txt: no release of somebody else changes what a commit does.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := constraints/newest.txt
TESTS :=

.PHONY: demo test check suite docs soak drift test-drift constraints

# the build of the editable install is a pip of its own, which heeds --build-constraint alone
$(VENV)/installed: pyproject.toml constraints/newest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade --constraint $(PINS) pip
	$(BIN)/pip install --quiet --constraint $(PINS) --build-constraint $(PINS) --editable ".[dev]"
	$(BIN)/python constraints/drift.py
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m examples.shapes.demo --output_dir out/demo

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

suite: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(TESTS)

test: check suite

docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict

soak: $(VENV)/installed
	$(BIN)/python -m tests.soak --kills 30 --processes 1
	$(BIN)/python -m tests.soak --kills 30 --processes 2

# What pip resolves today, in an environment of its own. torch alone stays as it is: which build of
# it is right, gigabytes of CUDA or none, is the machine's affair, and pyproject.toml moves it.
DRIFT := VENV=.venv-drift PINS=.venv-drift/pins.txt

drift:
	rm -rf .venv-drift
	mkdir .venv-drift
	grep '^torch==' constraints/newest.txt > .venv-drift/pins.txt
	$(MAKE) $(DRIFT) .venv-drift/installed

test-drift: drift
	$(MAKE) --keep-going $(DRIFT) check suite; status=$$?; \
	.venv-drift/bin/python constraints/drift.py; exit $$status

constraints: drift
	.venv-drift/bin/python constraints/drift.py --write
