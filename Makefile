# Every target does its own set-up: a fresh clone with Python 3.11 (or newer) and make is enough.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test lint format unit benchmarks clean

help:
	@echo "make demo        teach a network digits, carry it over to other digits, write a report"
	@echo "make test        style, types and all tests, as CI runs them"
	@echo "make unit        the unit tests only"
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

test: lint
	$(BIN)/python -m pytest -n 2

unit: $(INSTALLED)
	$(BIN)/python -m pytest tests/unit

clean:
	rm -rf $(VENV) .venv-benchmarks build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
