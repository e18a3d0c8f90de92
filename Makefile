# Every target does its own set-up: a fresh clone with Python 3.11 (or newer) and make is enough.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test lint format unit reliability benchmarks clean

help:
	@echo "make demo        teach a network digits, carry it over to other digits, write a report"
	@echo "make test        style, types and all tests, as CI runs them"
	@echo "make unit        the unit tests only"
	@echo "make reliability what takes too long for every change: damaged pictures, large folders, runs broken off"
	@echo "make lint        style and types only"
	@echo "make format      rewrite the sources in the project's style"
	@echo "make benchmarks  measure again what the project claims (fastai in an environment of its own)"
	@echo "make clean       remove the environments and what the tools left"

# Made anew when what it is made from changes.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/headstart demo

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# One thread each: two workers of two threads on two cores wait for one another most of the time (a
# network's single step took 1.1 s instead of 0.03 s).
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

unit: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/unit

reliability: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/reliability

# Hours on two cores; needs the test pictures (see benchmarks/README.md) and a quiet machine.
FASTAI := .venv-benchmarks/bin/python

.venv-benchmarks/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-benchmarks
	$(FASTAI) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[benchmarks]"
	@touch $@

benchmarks: $(INSTALLED) .venv-benchmarks/.installed
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/preprocessing.py
	$(BIN)/python benchmarks/finder.py fit --into runs/finder
	$(BIN)/python benchmarks/finder.py report --into runs/finder
	$(BIN)/python -W ignore benchmarks/recipes.py fit --into runs/recipes
	$(BIN)/python benchmarks/recipes.py report --into runs/recipes
	$(BIN)/python benchmarks/pipeline.py --fastai-python $(FASTAI)
	$(FASTAI) -W ignore benchmarks/augmentation.py fit --into runs/augmentation
	$(FASTAI) -W ignore benchmarks/augmentation.py report --into runs/augmentation
	$(FASTAI) -W ignore benchmarks/training.py --repeats 5
	$(BIN)/python benchmarks/two_processes.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/start_up.py --fastai-python $(FASTAI)
	$(BIN)/python benchmarks/recipe_vs_fastai.py --fastai-python $(FASTAI) --repeats 3
	$(BIN)/python benchmarks/outer_folds.py fastai --into runs/outer_folds --fastai-python $(FASTAI)
	$(BIN)/python benchmarks/outer_folds.py headstart --into runs/outer_folds
	$(BIN)/python benchmarks/outer_folds.py report --into runs/outer_folds

clean:
	rm -rf $(VENV) .venv-benchmarks build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
