# Two commands do everything on a fresh machine with Python 3.11 or newer, git and make:
#   make quickstart    install, then detect defects in three textures with real pretrained weights
#   make test          install, then run every test
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# The tests run one process per core, each with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto

.PHONY: help quickstart test fast-test browser-test gpu-check lint types docs check clean

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

quickstart: $(INSTALLED) ## install, then find defects in three textures with real pretrained weights
	$(BIN)/adkit run quickstart

test: $(INSTALLED) ## run every test but those of the report page in a browser
	$(PYTEST) -m "not browser"

fast-test: $(INSTALLED) ## run the tests that take no more than a few seconds each
	$(PYTEST) -m "not slow and not browser"

browser-test: $(INSTALLED) ## run the tests of the report page in Chromium, which takes chromium, chromedriver and npm
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n0 -m browser

gpu-check: $(INSTALLED) ## test what computes, and measure, on a GPU
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 4 -m "not slow and not browser" tests/toolkit tests/training tests/plugins tests/inference
	$(BIN)/python benchmarks/gpu.py --output figures/gpu.json

lint: $(INSTALLED) ## check style and format with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## check types with mypy
	$(BIN)/mypy

docs: $(INSTALLED) ## write what the documentation takes from the code
	$(BIN)/python docs/generate.py

check: lint types test ## lint, types and every test but those in a browser

# The stamp is newer than pyproject.toml exactly when the environment has what pyproject.toml asks for. What an older
# checkout was installed as, adkit, goes first: beside adkit-ignite, every component would be there twice.
$(INSTALLED): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'adkit needs Python 3.11 or newer; name one: make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	rm -rf *.egg-info && $(BIN)/python -m pip uninstall -qq --yes adkit
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean: ## remove the environment and what was built
	rm -rf .venv build *.egg-info
