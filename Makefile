# make demo | test | lint | bench | test-tl4 | notebooks
# The first run makes a virtual environment (about three minutes); later runs reuse it.

PYTHON ?= python3
VENV := .venv
VENV_TL4 := .venv-tl4
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
INSTALLED_TL4 := $(VENV_TL4)/installed
TL4_TESTS := tests/engine tests/tasks tests/patching tests/models tests/attribution tests/circuits tests/steering tests/probes
TWO_AT_ONCE := --numprocesses=2 --dist=loadfile

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint bench test-tl4 notebooks

demo: $(INSTALLED)
	$(BIN)/interp demo

test test-tl4: export OMP_NUM_THREADS := 1

test: $(INSTALLED)
	$(BIN)/python -m pytest $(TWO_AT_ONCE)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(INSTALLED)
	$(BIN)/python benchmarks/patching.py

# The engine on TransformerLens 4, which has only TransformerBridge.
test-tl4: $(INSTALLED_TL4)
	$(VENV_TL4)/bin/python -m pytest $(TWO_AT_ONCE) $(TL4_TESTS)

notebooks: $(INSTALLED)
	$(BIN)/python notebooks/build.py

# torch goes first and by its exact version, so that pip chooses the build before it sees the others' needs.
define install
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet -c $(2) "$$(grep '^torch==' $(2))"
	$(1)/bin/python -m pip install --quiet -c $(2) -e ".[dev]"
	touch $(3)
endef

$(INSTALLED): pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt,$@)

$(INSTALLED_TL4): pyproject.toml constraints-tl4.txt
	$(call install,$(VENV_TL4),constraints-tl4.txt,$@)
