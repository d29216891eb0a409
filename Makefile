# make demo   encode and decode the built-in samples, write demo/
# make test   ruff, mypy and pytest
# Both set up .venv first; only `make test` needs torch.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/kilocall demo --out demo

test: lint check

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

check: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
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
