# make demo   train, evaluate and look at a segmenter on generated data, nothing downloaded
# make test   the tests; make check adds lint, types and the layer laws
# make docs   the documentation site, in site/
# make extras the optional packages, without which the tests that want them are skipped
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := $(VENV)/.extras
LOCK := $(VENV)-lock
# Two processes share the tests, file by file, since a file's tests share what is made for them; a
# process takes about 2 GB.
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test quick check extras docs lock clean

# torch comes first, from TORCH_INDEX if that is given: PyPI's build for Linux is the one for CUDA,
# several GB; https://download.pytorch.org/whl/cpu has one for CPUs.
$(STAMP): requirements.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "$(PYTHON) is not of version 3.11 to 3.13; make PYTHON=python3.12 names another"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check \
	    $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python tools/demo.py --out work_dirs/demo

test: $(STAMP)
	$(BIN)/python -m pytest tests $(PARALLEL)

quick: $(STAMP)
	$(BIN)/python -m pytest tests $(PARALLEL) -m "not slow"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Constraints keep the extras from moving a tested version, and are the extras' own tested ones.
extras: $(EXTRAS)
$(EXTRAS): $(STAMP) requirements-extras.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation \
	    -c requirements.txt -c requirements-extras.txt -e '.[app,docs,notebook,onnx]'
	touch $(EXTRAS)

docs: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation \
	    -c requirements.txt -c requirements-extras.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The versions in use here, but only of what tests and training want, and in a file beside it of what
# the extras want: a fresh environment leaves out whatever else came in by hand.
lock: $(EXTRAS)
	rm -rf $(LOCK) && $(PYTHON) -m venv $(LOCK)
	$(BIN)/python -m pip freeze --all --exclude-editable | sed 's/+cpu$$//' > $(LOCK)/here.txt
	$(LOCK)/bin/pip install --quiet --disable-pip-version-check -c $(LOCK)/here.txt setuptools torch
	$(LOCK)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation \
	    -c $(LOCK)/here.txt '.[dev]'
	$(LOCK)/bin/pip freeze --all --exclude pip --exclude vpd-ris | sed 's/+cpu$$//' \
	    > $(LOCK)/requirements.txt
	$(LOCK)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation \
	    -c $(LOCK)/here.txt '.[app,docs,notebook,onnx]'
	$(LOCK)/bin/pip freeze --all --exclude pip --exclude vpd-ris | sed 's/+cpu$$//' \
	    | grep -vxFf $(LOCK)/requirements.txt > $(LOCK)/requirements-extras.txt
	mv $(LOCK)/requirements.txt $(LOCK)/requirements-extras.txt . && rm -rf $(LOCK)

# What the tools leave behind; runs and checkpoints (work_dirs, checkpoints) are never touched.
clean:
	rm -rf site $(LOCK) .pytest_cache .mypy_cache .ruff_cache
