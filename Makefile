# `make demo` and `make test` are all a clone needs; the virtual environment is made on the way,
# with the versions of constraints/newest.txt: no release of somebody else changes what a commit does.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
END := newest
PINS := constraints/$(END).txt
EXTRAS := dev
# what needs torchvision by its metadata alone: that of PyPI is built for CUDA, and beside a torch for
# the CPU transformers would fail on it
ALONE := torch-fidelity
TESTS :=

.PHONY: demo test test-lowest check suite docs soak players drift test-drift constraints lowest

# the build of the editable install is a pip of its own, which heeds --build-constraint alone
BUILD_PINS := constraints/newest.txt

$(VENV)/installed: pyproject.toml constraints/newest.txt constraints/lowest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade --constraint $(PINS) pip
	$(BIN)/pip install --quiet --constraint $(PINS) --build-constraint $(BUILD_PINS) --editable ".[$(EXTRAS)]"
	$(BIN)/pip install --quiet --constraint $(PINS) --no-deps $(ALONE)
	$(BIN)/python constraints/drift.py $(END)
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m examples.shapes.demo --output_dir out/demo

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 lcm pipelines train_lcm_lora.py

suite: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(TESTS)

test: check suite

docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict

soak: $(VENV)/installed
	$(BIN)/python -m tests.soak --kills 30 --processes 1
	$(BIN)/python -m tests.soak --kills 30 --processes 2

# The real programs, from checkouts that are named: COMFYUI=, A1111=, SD_SCRIPTS=, INVOKEAI=; what
# they import besides, in a folder that SITE= names.
players: $(VENV)/installed
	$(BIN)/python -m tests.players.real $(if $(COMFYUI),--comfyui "$(COMFYUI)") $(if $(A1111),--a1111 "$(A1111)") \
	  $(if $(SD_SCRIPTS),--sd_scripts "$(SD_SCRIPTS)") $(if $(INVOKEAI),--invokeai "$(INVOKEAI)") $(if $(SITE),--site "$(SITE)")
	$(BIN)/python -m benchmarks.report

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

constraints: drift lowest
	.venv-drift/bin/python constraints/drift.py --write

# --- the lowest versions that pyproject.toml allows, torch excepted -------------------------------

LOWEST := VENV=.venv-lowest END=lowest EXTRAS=test
CORE := tests/libraries tests/adapter tests/formats tests/models tests/inference tests/pipelines \
	tests/outputs tests/data/sources tests/training/test_whole_runs.py \
	tests/training/test_resumed_runs.py

# what one end of the ranges wrote is read under the other
test-lowest: $(VENV)/installed
	$(MAKE) $(LOWEST) TESTS="$(CORE)" suite
	$(MAKE) $(LOWEST) TESTS=tests/publish/test_hub.py suite  # alone: the older library remembers being offline
	.venv-lowest/bin/python constraints/keeps.py
	rm -rf out/exchange
	$(BIN)/python -m tests.exchange write out/exchange/newest
	.venv-lowest/bin/python -m tests.exchange write out/exchange/lowest
	$(BIN)/python -m tests.exchange read out/exchange/lowest
	.venv-lowest/bin/python -m tests.exchange read out/exchange/newest

lowest:
	rm -rf .venv-lowest
	mkdir .venv-lowest
	$(PYTHON) constraints/floors.py > .venv-lowest/pins.txt
	$(MAKE) $(LOWEST) PINS=.venv-lowest/pins.txt .venv-lowest/installed
	.venv-lowest/bin/python constraints/drift.py lowest --write
