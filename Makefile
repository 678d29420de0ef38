# make demo      train HCT on drawn scenes
# make reproduce the paper's story at the size of two cores, and its report; goes on where it stopped
# make install   everything, tests included
# make lint      style and types
# make test      lint and the default tests
# make test-all  the long tests too
# make slurm-test   on a real Slurm of two nodes that the tests start; as root it installs what is missing
# make pages     brings the pages that data=pages trains on, 1 GB; REPOS=<folder> has clones of their repositories
# make clean     removes what make install made
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo reproduce install lint test test-all slurm-test pages clean

demo: $(VENV)/.base
	$(BIN)/python -m hct_lightning +experiment=demo

# A part is done when its stamp is there.
HCT := $(BIN)/python -m hct_lightning
STORY ?= outputs/reproduce
RANKS ?= 2
CPP := $(if $(shell command -v cmake),build/cpp,null)

reproduce: install $(STORY)/ranks-1/.measured $(STORY)/ranks-$(RANKS)/.fitted
	$(HCT) task=report 'report.runs=[$(STORY)/ranks-1,$(STORY)/ranks-$(RANKS)]' report.against=paper hydra.run.dir=$(STORY)

# Of several ranks only the training is of interest; the artifacts are those of one.
$(STORY)/ranks-%/.fitted: EXPORT = $(if $(filter 1,$*),,'export=[]')
$(STORY)/ranks-%/.fitted:
	if [ -e $(@D)/checkpoints/last.ckpt ]; then $(HCT) run=$(@D) $(EXPORT); \
	else $(HCT) +experiment=reproduce trainer.devices=$* $(EXPORT) hydra.run.dir=$(@D); fi
	touch $@

$(STORY)/ranks-1/.quantized: $(STORY)/ranks-1/.fitted
	$(HCT) task=export run=$(@D) 'export=[torchscript_int8]' 'export.percentages=[0,50,100]'
	touch $@

$(STORY)/ranks-1/.measured: $(STORY)/ranks-1/.quantized
	$(HCT) task=benchmark benchmark=inference run=$(@D) benchmark.paper=true benchmark.accuracy=200 benchmark.rounds=7 benchmark.cpp=$(CPP)
	touch $@

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

pages: $(VENV)/.base
	$(BIN)/python -m hct_lightning.data.sources.pages "$(or $(HCT_DATA),data)/pages" $(if $(REPOS),--clones "$(REPOS)")

clean:
	rm -rf $(VENV) build *.egg-info
