# make demo      train HCT on drawn scenes
# make install   everything, tests included
# make lint      style and types
# make test      lint and the default tests
# make test-all  the long tests too
# make slurm-test   on a real Slurm of two nodes that the tests start; as root it installs what is missing
# make clean     removes what make install made
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo install lint test test-all slurm-test clean

demo: $(VENV)/.base
	$(BIN)/python -m hct_lightning +experiment=demo

install: $(VENV)/.dev

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: lint
	$(BIN)/python -m pytest -m 'not slurm'

slurm-test: install
	PATH="$$PATH:/usr/sbin" command -v slurmctld >/dev/null || { apt-get update && \
	  apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge; }
	$(BIN)/python -m pytest -m slurm tests/slurm

clean:
	rm -rf $(VENV) build *.egg-info
