# make demo   encode and decode the built-in samples, write demo/
# make test   ruff, mypy and pytest, without what takes long and rarely breaks
# make test-all   all of it
# make fuzz   a million changed packets, messages and files for everything that reads what others send
# All set up .venv first; only `make test` needs torch.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# PYTEST_ARGS may name tests of one kind alone.
NO_TESTS := 5

.PHONY: demo test test-all lint check check-all fuzz clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/kilocall demo --out demo

test: lint check

test-all: lint check-all

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

# What needs no clock shares the cores; calls, pages and services run alone.
define pytest
	$(PYTEST) -n 2 --dist loadfile --durations=20 -m "not real_time$(1)" $(PYTEST_ARGS) || [ $$? -eq $(NO_TESTS) ]
	$(PYTEST) --durations=20 -m "real_time$(1)" $(PYTEST_ARGS) || [ $$? -eq $(NO_TESTS) ]
endef

check: $(VENV)/.dev
	$(call pytest, and not slow)

check-all: $(VENV)/.dev
	$(call pytest)

# FUZZ_ARGS may be `--inputs 10000`, `--seed 2` or `--target streams`.
fuzz: $(VENV)/.dev
	cd tests && ../$(BIN)/python -m fuzz $(FUZZ_ARGS)

clean:
	rm -rf $(VENV) demo tests/fuzz-findings build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find sender receiver shared proto tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

# With the development tools the core is there too.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.core
