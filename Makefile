# The kit's chores; `make` lists them.
SHELL := /bin/bash
PY := .venv/bin/python
JOBS := 4
MINUTES := 60
.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-gpu soak lint format bench bench-volumes clean clean-all

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## .venv with everything pinned, also for the tests
	@bash run.sh --setup

test: setup ## all tests but the slow and the GPU ones; JOBS=4 processes
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
		-m "not slow and not gpu and not soak"

test-slow: setup ## the slow tests, and five minutes' worth of the soak
	KIT_SOAK_MINUTES=5 $(PY) -m pytest -m "slow or soak"

test-gpu: setup ## the tests that need an NVIDIA GPU
	$(PY) -m pytest -m gpu

soak: setup ## an hour's worth of requests, MINUTES=60; figures in benchmarks/results
	KIT_SOAK_MINUTES=$(MINUTES) KIT_SOAK_OUT=benchmarks/results/soak.md \
		$(PY) -m pytest -m soak tests/soak

lint: setup ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup ## ruff's formatter and safe fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: setup ## the figures in benchmarks/, measured on this machine
	$(PY) benchmarks/bench.py

bench-volumes: setup ## a whole volume, accelerated against served TorchScript
	$(PY) benchmarks/volumes.py

clean: ## stops the server; removes its run folder and the caches
	@bash run.sh --stop
	rm -rf .run .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

clean-all: clean ## also .venv and the archives
	rm -rf .venv .venv.lock model_store/*.mar
