# make demo   purify the example images on this machine
# make test   the fast test suite
# make lint   formatting and lint checks
# make slow   the slow tests
# make types  the type checker over the public modules
# make docs   the pages and the API reference as a site: site/index.html
# make matrix the fast tests under every Python that is here, and without the extras (ARGS="-s quick-3.12": one of them)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What clusters run is what is tested; its versions are for this Python.
PINS = $(shell $(PYTHON) -c 'import sys; print("--constraint deploy/constraints.txt" * (sys.version_info[:2] == (3, 11)))')
PIP = $(BIN)/python -m pip install --quiet $(PINS)

.PHONY: demo test slow lint types docs matrix clean

demo: $(VENV)/installed
	$(BIN)/raypurify demo demo-out --overwrite

test: $(VENV)/tested
	$(BIN)/python -m pytest tests -n 2 --dist loadfile
	$(BIN)/python -m pytest --doctest-modules raypurify --ignore-glob 'raypurify/csc/_gpu_*.py'

slow: $(VENV)/tested
	$(BIN)/python -m pytest tests -m slow

lint: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/tested
	$(BIN)/mypy

docs: $(VENV)/documented
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -c docs -d build/doctrees . site
	@echo "open site/index.html"

matrix: $(VENV)/installed
	$(PIP) nox
	$(BIN)/nox $(ARGS)

$(VENV)/installed: pyproject.toml deploy/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11 …")'
	@echo "installing into $(VENV), torch and Ray with it: gigabytes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PINS) --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/documented: $(VENV)/installed
	$(PIP) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .nox demo-out own-purifier site docs/api build *.egg-info .pytest_cache .ruff_cache .mypy_cache
