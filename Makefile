# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.ready
NNUNET ?= .nnunet-env

.PHONY: demo test test-all nnunet-env lint bench docs flops parity clean

demo: $(STAMP)
	$(BIN)/segwise demo --pull -o runs/demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

# Slow suites too, with nnU-Net's own package: in the environment that SEGWISE_NNUNET_ENV names, else in one made here.
test-all: $(STAMP) $(if $(SEGWISE_NNUNET_ENV),,$(NNUNET)/.ready)
	SEGWISE_NNUNET_ENV=$(or $(SEGWISE_NNUNET_ENV),$(abspath $(NNUNET))) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# One command for all three: else pip replaces the CPU build of torch by one of several GB.
nnunet-env: $(NNUNET)/.ready

$(NNUNET)/.ready:
	@echo "Setting up $(NNUNET), where nnU-Net's package lives apart: about 400 MB of packages."
	$(PYTHON) -m venv $(NNUNET)
	$(NNUNET)/bin/python -m pip install --disable-pip-version-check -q torch==2.13.0 torchvision==0.28.0 nnunetv2
	@touch $(NNUNET)/.ready

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/surface.py
	$(BIN)/python benchmarks/floor.py ../shared/data

docs: $(STAMP)
	$(BIN)/python docs/generate.py

# docs/reference/flops.md: what every published net computes.
flops: $(STAMP)
	$(BIN)/python docs/flops.py

# The table of docs/parity.md; make parity OUT=FILE.csv writes it as CSV instead.
parity: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m parity $(if $(OUT),--csv $(OUT),--markdown docs/parity.md)

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): the first time this downloads about 400 MB of packages."
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Segwise needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[test]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) $(NNUNET) runs
