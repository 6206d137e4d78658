# The two commands that set up everything on a fresh machine: `make rehearse` and `make test`.
# Both make an environment in .venv first; PYTHON and TORCH choose another interpreter or another build of torch.

PYTHON ?= python3
TORCH ?= torch==2.13.0
MINUTES ?= 3
CONFIG ?= neox_configs/pythia-70m.yml
VENV := .venv
BIN := $(VENV)/bin

.PHONY: rehearse test test-fast test-neox test-exhaustive test-cluster faults lint benchmark benchmark-supervisor benchmark-metrics soak clean

rehearse: $(VENV)/ready  ## the main job on the bundled trainer: a whole active-forgetting run on this machine
	$(BIN)/gaff rehearse --config $(CONFIG) --trainer bundled --minutes $(MINUTES)

test: $(VENV)/ready  ## the whole suite, live runs included: under 10 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/ready  ## without the live runs of the bundled trainer
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not exhaustive and not cluster"

test-neox: $(VENV)/ready  ## on unmodified GPT-NeoX, which GPT_NEOX_DIR and GPT_NEOX_PYTHON name: about 25 minutes
	$(BIN)/python -m pytest -m neox

test-exhaustive: $(VENV)/ready  ## every kill at every durable effect in further layouts: 10 minutes more
	$(BIN)/python -m pytest -n 2 --dist worksteal -m exhaustive

test-cluster: $(VENV)/ready  ## on a real Slurm and Grid Engine, started here, and images built for real; skips what is not installed
	$(BIN)/python -m pytest -n 3 --dist worksteal -m cluster

faults: $(VENV)/ready  ## the fault bench: 86 runs disturbed at a chosen moment, the table into docs/faults.md: 15 minutes on 2 cores
	$(BIN)/python -m tests.faults --jobs 2 --write docs/faults.md

lint: $(VENV)/ready  ## formatter, linter and type checker; shell scripts and image recipes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -B containers/check lint

benchmark: $(VENV)/ready  ## what surgery costs, side by side with torch
	$(BIN)/python benchmarks/surgery.py

benchmark-supervisor: $(VENV)/ready  ## what supervising costs, and how soon the trainer's end is seen: 10 minutes
	$(BIN)/python -m benchmarks.supervisor

benchmark-metrics: $(VENV)/ready  ## what a million iterations cost to parse, load, analyse and report: 3 minutes
	$(BIN)/python -m benchmarks.metrics

soak: $(VENV)/ready  ## a long run killed 100 times at random, beside the same run in peace: half an hour or more
	$(BIN)/python -m benchmarks.soak --kills 100

# torch first and by itself: its version is fixed, and nothing later may pull another build.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[bundled,dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
