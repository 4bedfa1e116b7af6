# `make` lists the targets. They use the tools on the PATH, so activate your environment first.
PYTHON ?= python

.DEFAULT_GOAL := help
.PHONY: help install test test-all faults lint format types tables docs speed

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## install the package in editable mode, with test and lint tools
	$(PYTHON) -m pip install -e '.[test]'

test:  ## run the fast tests (a minute and a half on two cores)
	$(PYTHON) -m pytest -m "not slow and not gpu"

test-all:  ## run all tests (about ten minutes on two cores)
	$(PYTHON) -m pytest

faults:  ## inject all faults (about two hours) and update docs/reliability.md
	$(PYTHON) tools/reliability.py --out docs/reliability.json
	$(PYTHON) tools/docs.py --write --quick docs/reliability.md

lint:  ## check formatting, lint rules and import contracts; changes nothing
	ruff format --check .
	ruff check .
	lint-imports

format:  ## format the code and apply ruff's safe fixes
	ruff format .
	ruff check --fix .

types:  ## check types with mypy
	mypy

tables:  ## regenerate the results tables in README.md and docs/ from results/
	$(PYTHON) tools/table.py --write

docs:  ## regenerate the generated parts of README.md and docs/, including docs/methods.md
	$(PYTHON) tools/docs.py --write --quick

speed:  ## measure training speed on this machine in a few minutes; writes to build/
	mkdir -p build
	$(PYTHON) tools/speed.py --quick --out build/speed
