# `make demo` and `make test` need Python 3.11 or newer and a package index; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test test-all check format clean

## Train a small classifier on synthetic notes, show its results and classify a file with it
demo: .venv/installed-demo
	$(BIN)/hf-audio-mamba demo

## The default tests (under 10 minutes on 2 cores)
test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

## Every test, the long ones too
test-all: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m ""

## Linters, types and import rules
check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo_output

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-%: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[$*]'
	touch $@
