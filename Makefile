# make demo   encode and decode the built-in samples, write demo/
# make test   ruff, mypy and pytest
# make fuzz   a million changed packets, messages and files for everything that reads what others send
# All set up .venv first; only `make test` needs torch.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# PYTEST_ARGS may name tests of one kind alone.
NO_TESTS := 5

.PHONY: demo test lint check fuzz clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/kilocall demo --out demo

test: lint check

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

check: $(VENV)/.dev
	$(PYTEST) -n 2 --dist loadfile -m "not real_time" $(PYTEST_ARGS) || [ $$? -eq $(NO_TESTS) ]
	$(PYTEST) -m real_time $(PYTEST_ARGS) || [ $$? -eq $(NO_TESTS) ]

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
