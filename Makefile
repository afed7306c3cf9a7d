# make demo   purify the example images on a local Ray
# make test   the fast test suite
# make lint   formatting and lint checks
# make slow   the slow tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test slow lint clean

demo: $(VENV)/installed
	$(BIN)/raypurify purify examples/cifar10 demo-out --bundle cifar10 --overwrite

test: $(VENV)/tested
	$(BIN)/python -m pytest tests
	$(BIN)/python -m pytest --doctest-modules raypurify --ignore raypurify/csc/_gpu_kernels.py

slow: $(VENV)/tested
	$(BIN)/python -m pytest tests -m slow

lint: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo-out build *.egg-info .pytest_cache .ruff_cache
