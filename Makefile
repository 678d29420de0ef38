# make demo   train HCT on drawn scenes        make test      lint and the default tests
# make install                                  make test-all  the long tests too
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo install lint test test-all clean

demo: install
	$(BIN)/python -m hct_lightning +experiment=demo

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest

test-all: lint
	$(BIN)/python -m pytest -m 'slow or not slow'

clean:
	rm -rf $(VENV) build *.egg-info
