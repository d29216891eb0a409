# make demo   encode and decode the built-in samples, write demo/
# make test   ruff, imports, mypy and pytest, without what takes long and rarely breaks
# make test-all   all of it
# make fuzz   a million changed packets, messages and files for everything that reads what others send
# make sbom   what the core and the images are made of, as CycloneDX, into dist/
# make web    the engines that run networks in a browser, from the npm registry, for kilocall serve and export-page
# make lock   requirements/ anew from pyproject.toml; LOCK_ARGS=--upgrade takes the newest of everything
# All set up .venv first; only `make test` and the three below it need torch.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
# PYTEST_ARGS may name tests of one kind alone.
NO_TESTS := 5
WEB    := shared/kilocall/web
ENGINE := ort.wasm.bundle.min.mjs ort-wasm-simd-threaded.wasm ort.jspi.bundle.min.mjs ort-wasm-simd-threaded.jspi.wasm
# Dozens of processes load the same modules: where containers set this, each would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all lint check check-all engine fuzz sbom web lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/kilocall demo --out demo

test: lint check

test-all: lint check-all

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

# Three groups, one after the other: what computes, what waits, and what needs the machine to itself. pyproject.toml has
# the markers, tests/conftest.py which files have them. Of the last, what fails is run once more: whoever shares the
# machine may have taken it for a second, and what is at fault fails again.
SEVERAL := --dist loadfile --no-loadscope-reorder
group = $(PYTEST) $(1) --durations=20 -m "$(2)" $(PYTEST_ARGS) || [ $$? -eq $(NO_TESTS) ]
define pytest
	$(call group,-n 2 $(SEVERAL),not waits and not real_time$(1))
	$(call group,-n 3 $(SEVERAL),waits$(1))
	$(call group,,real_time$(1)) || $(PYTEST) --last-failed -m "real_time$(1)" $(PYTEST_ARGS)
endef

check: $(VENV)/.dev engine
	$(call pytest, and not slow)

check-all: $(VENV)/.dev engine
	$(call pytest)

web: node_modules/.package-lock.json
	mkdir -p $(WEB)/vendor
	cp $(addprefix node_modules/onnxruntime-web/dist/,$(ENGINE)) $(WEB)/vendor
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m kilocall.runtime.web_networks; fi

# What needs it is skipped by the tests where it cannot be had.
engine:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory web || echo "make web failed: the page's tests are skipped"; fi

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	touch $@

# FUZZ_ARGS may be `--inputs 10000`, `--seed 2` or `--target streams`.
fuzz: $(VENV)/.dev
	cd tests && ../$(BIN)/python -m fuzz $(FUZZ_ARGS)

# It would warn that a list of requirements does not say who needs whom.
sbom: $(VENV)/.dev
	mkdir -p dist
	$(BIN)/python -W ignore::UserWarning -m cyclonedx_py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
		--output-format JSON --output-file dist/kilocall.cdx.json requirements/core.txt

# One file for every system and Python. torch and what it alone brings are left out of it: there is a build for
# processors and one for every CUDA, each with hashes and parts of its own, and a machine may bring one along.
define compile
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--annotation-style line --custom-compile-command 'make lock' $(LOCK_ARGS)
endef

lock: $(VENV)/.dev
	$(compile) pyproject.toml -o requirements/core.txt
	$(compile) pyproject.toml --extra dev -c requirements/core.txt -o requirements/dev.txt
	awk '/^[a-z]/ { kept = !/^(torch|triton|cuda|nvidia)[-=]/ } /^#/ || kept' requirements/dev.txt > requirements/dev.part
	mv requirements/dev.part requirements/dev.txt
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'])" \
		| $(compile) - -c requirements/dev.txt -o requirements/build.txt

clean:
	rm -rf $(VENV) node_modules $(WEB)/vendor demo tests/fuzz-findings build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find sender receiver shared proto tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# By the ranges of pyproject.toml: a machine may bring builds of its own along, whose hashes are theirs. Images install
# what requirements/ has the hashes of.
$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(PIP) install -e .
	touch $@

# With the development tools the core is there too.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[dev]'
	touch $@ $(VENV)/.core
