# `make demo` and `make test` each make their own environment in .venv, install the tested versions, and run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEWEST := .venv-newest
LOWEST := .venv-lowest

DOCS := .venv-docs

.PHONY: install demo test test-newest test-lowest quick lint docs build clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/hf-unlearn demo --output demo-output

test: install
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# The same with the newest versions of everything but torch, in an environment made anew.
test-newest:
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	grep '^torch==' constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip install --quiet -c $(NEWEST)/constraints.txt torch
	$(NEWEST)/bin/python -m pip install --quiet -c $(NEWEST)/constraints.txt -e '.[dev]'
	$(NEWEST)/bin/python -m pip install --quiet --upgrade pillow  # gradio asks for an older one, and works with the newest
	$(NEWEST)/bin/python -m pytest -n 2 --dist loadgroup

# And with the lowest versions that pyproject.toml admits.
test-lowest:
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet -c constraints-lowest.txt torch
	$(LOWEST)/bin/python -m pip install --quiet -c constraints-lowest.txt -e '.[test]'
	$(LOWEST)/bin/python -m pytest -n 2 --dist loadgroup

quick: install
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The sdist, and the wheel that is built from it, in dist/.
build: install
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# The site, in site/. It reads the package as text, so neither torch nor the package is installed.
docs: $(DOCS)/.installed
	$(DOCS)/bin/mkdocs build --strict

$(DOCS)/.installed: constraints.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet -c constraints.txt mkdocs mkdocs-material mkdocstrings mkdocstrings-python ruff
	touch $@

clean:
	rm -rf $(VENV) $(NEWEST) $(LOWEST) $(DOCS) site demo-output out build dist
