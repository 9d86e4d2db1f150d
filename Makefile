# make demo | test | test-tl4 | test-newest | matrix | lint | lock | bench | notebooks | docs
# The first run makes a virtual environment (about three minutes); later runs reuse it.

PYTHON ?= python3
VENV := .venv
VENV_TL4 := .venv-tl4
VENV_NEWEST := .venv-newest
VENV_LOCK := .venv-lock
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
INSTALLED_TL4 := $(VENV_TL4)/installed
TL4_TYPED := tests/engine tests/tasks tests/patching tests/attribution tests/circuits tests/heads
TL4_TESTS := tests/models tests/steering tests/subspaces tests/probes tests/architectures tests/real tests/live/test_live_answers.py tests/test_readme.py
TWO_AT_ONCE := --numprocesses=2 --dist=loadfile
# Every annotated call checked for types and shapes: twice the time, so in a part of the suite on release 4.
TYPED := --jaxtyping-packages=interp,beartype.beartype

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-tl4 test-newest matrix lint lock bench notebooks docs

demo: $(INSTALLED)
	$(BIN)/interp demo

test test-tl4 matrix: export OMP_NUM_THREADS := 1

# A real language model, once; without it the tests marked `real` are skipped and say so.
test: $(INSTALLED)
	-$(BIN)/interp models get smollm2-135m
	$(BIN)/python -m pytest $(TWO_AT_ONCE)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(INSTALLED)
	$(BIN)/python benchmarks/patching.py

# The engine on TransformerLens 4, which has only TransformerBridge.
test-tl4: $(INSTALLED_TL4)
	$(VENV_TL4)/bin/python -m pytest $(TWO_AT_ONCE) $(TYPED) $(TL4_TYPED)
	$(VENV_TL4)/bin/python -m pytest $(TWO_AT_ONCE) $(TL4_TESTS)

# docs/models.md: every verb on every architecture, on both releases (some minutes).
matrix: $(INSTALLED) $(INSTALLED_TL4)
	$(BIN)/python tests/architectures/matrix.py measure $(VENV)/matrix.json
	$(VENV_TL4)/bin/python tests/architectures/matrix.py measure $(VENV_TL4)/matrix.json
	$(BIN)/python tests/architectures/matrix.py page $(VENV)/matrix.json $(VENV_TL4)/matrix.json > docs/models.md

notebooks: $(INSTALLED)
	$(BIN)/python notebooks/build.py

# The documentation as a site in out/site; every warning is an error. In an environment of its own.
VENV_DOCS := .venv-docs
docs:
	test -x $(VENV_DOCS)/bin/mkdocs || $(PYTHON) -m venv $(VENV_DOCS)
	$(VENV_DOCS)/bin/python -m pip install -q "mkdocs-material>=9.7,<10" "mkdocstrings[python]>=1,<2"
	$(VENV_DOCS)/bin/mkdocs build --strict

# What pyproject.toml's ranges give today, torch excepted; made anew each time.
test-newest: export OMP_NUM_THREADS := 1
test-newest:
	rm -rf $(VENV_NEWEST)
	$(call install,$(VENV_NEWEST),$(TORCH))
	$(VENV_NEWEST)/bin/python -m pip list
	$(VENV_NEWEST)/bin/python -m pytest $(TWO_AT_ONCE) $(TL4_TYPED) $(TL4_TESTS)

# Every package of both environments by its version, from pyproject.toml's ranges and the three pins below.
TORCH := torch==2.13.0
TRANSFORMERS := transformers~=5.23.0

lock:
	$(call lock,3.9,constraints.txt)
	$(call lock,4.3,constraints-tl4.txt)

# Versions were chosen for the Python that made the file: an older one takes the ranges.
define lock
	rm -rf $(VENV_LOCK)
	$(call install,$(VENV_LOCK),$(TORCH),"transformer-lens~=$(1).0" "$(TRANSFORMERS)")
	echo "# Written by make lock: the environment of the tests on TransformerLens $(1)." > $(2).new
	$(VENV_LOCK)/bin/python -m pip list --format=freeze --exclude-editable --exclude pip \
		| sed -E 's/\+[a-z0-9.]+$$//' \
		| sed -E "/^(torch|transformer-lens)==/! s/$$/ ; python_version >= '$(call minor,$(VENV_LOCK))'/" >> $(2).new
	mv $(2).new $(2)
	rm -rf $(VENV_LOCK)
endef
minor = $$($(1)/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# torch goes first and by its exact version, so that pip chooses the build before it sees the others' needs;
# what builds the package goes with it, so that it is pinned as well.
define install
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet $(4) "$(2)" hatchling editables
	$(1)/bin/python -m pip install --quiet $(4) --no-build-isolation $(3) -e ".[dev]"
endef

$(INSTALLED): pyproject.toml constraints.txt
	$(call install,$(VENV),$(TORCH),,-c constraints.txt)
	touch $@

$(INSTALLED_TL4): pyproject.toml constraints-tl4.txt
	$(call install,$(VENV_TL4),$(TORCH),,-c constraints-tl4.txt)
	touch $@
