# What a person types. Every target sets up what it needs, in .venv, on a bare machine with Python >= 3.11.
SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
  $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))) python3)
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
REALISATIONS ?= 1
CONFIG ?= demo
BACKBONES ?=

BIN := .venv/bin
READY := .venv/.ready
# Jupyter and Snakemake must find this environment's programs, and nothing may spin threads behind a test's back. glibc
# keeps freed memory for the next training step, which else asks the system anew for every page that it touches.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 2147483647
export PYDEVD_DISABLE_FILE_VALIDATION ?= 1
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --rerun-triggers mtime --keep-going --config config=$(CONFIG) \
  realisations=$(REALISATIONS) $(if $(BACKBONES),backbones=$(BACKBONES))

.PHONY: help env study grid book test soak bench check-offline lint clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

env: $(READY)  ## the environment in .venv
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
	  f"mtclim needs Python >= 3.11; {sys.executable} is {v}. Say which one: make PYTHON=/path/to/python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

study: $(READY)  ## everything anew: data, variants, evaluation, map, book (REALISATIONS=1 CONFIG=demo BACKBONES=a,b)
	$(SNAKEMAKE) -- study
	$(MAKE) --no-print-directory book RESULTS=runs/$(CONFIG)/results

grid: $(READY)  ## when does it help: interdependency x ambiguity, 8 realisations
	$(SNAKEMAKE) -- grid

RESULTS ?= results
book: $(READY)  ## render the book from results/, without training
	rm -rf book/chapters && mkdir -p book/chapters && cp -R $(RESULTS)/. book/chapters/
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book: $(CURDIR)/_build/html/index.html"

# A worker a core, at most four; the tests of a file stay together, since they share what is slow to make.
WORKERS ?= $(shell expr $(CORES) '&' $(CORES) '<' 4 '|' 4)
test: $(READY)  ## the tests (TESTS="tests/test_model.py -k gru" for some of them)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

soak: $(READY)  ## the same checks at their full counts, with a record in results/soak.csv; hours
	$(BIN)/python -m pytest -m soak --timeout 0 $(TESTS)

bench: $(READY)  ## the benchmarks, as a table and as JSON
	$(BIN)/python -m benchmarks

check-offline: $(READY)  ## make study and make test in a network namespace without a network
	unshare -rn sh -c 'ip link set lo up && $(MAKE) --no-print-directory study && $(MAKE) --no-print-directory test'

lint: $(READY)  ## ruff, and no output in notebooks
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb

clean:  ## remove what can be made again, but neither runs/ nor .venv
	rm -rf _build book/chapters .cache .pytest_cache .ruff_cache .hypothesis .snakemake lightning_logs *.egg-info
