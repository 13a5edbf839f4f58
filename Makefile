# make demo   set up .venv and run recipes/digits.yaml
# make test   set up .venv and run ruff, mypy and pytest
#
# PYTHON=python3.12     the interpreter that .venv is made with
# PIP_ARGS="..."        extra arguments for pip, for example an index that has CPU builds of torch
# PYTEST_ARGS="..."     extra arguments for pytest, for example "-m 'not slow'"
# JOBS=2                processes that run tests, one thread each

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
JOBS ?= 2

BIN := $(VENV)/bin
DEMO_RUN := runs/digits-demo

.PHONY: demo test lint typecheck setup-demo setup-test clean

demo: setup-demo
	rm -rf $(DEMO_RUN)
	$(BIN)/tsn run recipes/digits.yaml --out $(DEMO_RUN)

test: lint typecheck
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: setup-test
	$(BIN)/mypy

setup-demo: $(VENV)/.installed-demo

setup-test: $(VENV)/.installed-test

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "tsn-toolkit needs Python 3.10 or newer, $(PYTHON) is older. Name another one: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# A stamp per set of extras: installing is done once, and again when pyproject.toml or what is compiled changes.
COMPILED := hatch_build.py $(wildcard tsn_toolkit/store/layer_decoder/*)

$(VENV)/.installed-demo: $(VENV)/.created pyproject.toml $(COMPILED)
	$(BIN)/python -m pip install $(PIP_ARGS) --editable '.[onnxruntime]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created pyproject.toml $(COMPILED)
	$(BIN)/python -m pip install $(PIP_ARGS) --editable '.[onnxruntime,test]'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO_RUN) build dist tsn_toolkit/store/_layer_decoder.* .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
