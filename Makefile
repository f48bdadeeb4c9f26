# make demo   train, evaluate and look at a segmenter on generated data, nothing downloaded
# make test   the tests; make check adds lint, types and the layer laws
# make docs   the documentation site, in site/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test quick check docs lock clean

# The exact torch pin comes first: an unpinned one would bring several GB of CUDA packages.
$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python tools/demo.py --out work_dirs/demo

test: $(STAMP)
	$(BIN)/python -m pytest tests

quick: $(STAMP)
	$(BIN)/python -m pytest tests -m "not slow"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The extra is installed here alone: neither training nor tests want it. Constraints keep it from
# moving a tested version.
docs: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation \
	    -c requirements.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: $(STAMP)
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.txt

clean:
	rm -rf work_dirs site .pytest_cache .mypy_cache .ruff_cache
