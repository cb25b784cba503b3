# Two commands do everything on a fresh machine with Python 3.11 or newer, git and make:
#   make quickstart    install, then detect defects in three textures with real pretrained weights
#   make test          install, then run every test
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# The tests run one process a core, each with one thread.

.PHONY: quickstart test fast-test lint types docs check clean

quickstart: $(INSTALLED)
	$(BIN)/adkit run recipes/quickstart.toml

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto

fast-test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python docs/generate.py

check: lint types test

# The stamp is newer than pyproject.toml exactly when the environment has what pyproject.toml asks for. What an older
# checkout was installed as, adkit, goes first: beside adkit-ignite, every component would be there twice.
$(INSTALLED): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'adkit needs Python 3.11 or newer; name one: make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	rm -rf *.egg-info && $(BIN)/python -m pip uninstall -qq --yes adkit
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv build *.egg-info
