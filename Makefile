# Development targets. Each installs what it needs, once.

PYTHON ?= python3
VENV ?= .venv
# Package index for torch. PyTorch's CPU wheels are a tenth of the size of those with CUDA:
#   make serve TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Empty: pip's configured index, by default PyPI, whose build for Linux includes CUDA.
TORCH_INDEX ?=
DATA ?= data/cifar10
RUN ?= runs/cifar10
BENCH ?= runs/bench
CORES ?= $(shell nproc 2>/dev/null || echo 1)

BIN := $(VENV)/bin
# Large downloads show their progress, small ones do not.
PIP := $(BIN)/pip --disable-pip-version-check install
PIP_QUIETLY := $(PIP) --quiet
TORCH := $(shell grep '^torch==' requirements.txt)

# Processes that take one file at a time, in the order of collection.
PYTEST := $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 15
REMOTE_ENGINE := XCIT_TEST_ENGINE=remote $(PYTEST) -m 'not slow and not one_process' tests/app
SCHEMA := $(BIN)/pytest tests/e2e/test_schema.py # its tests share an id, of which xdist would run one

# Training allocates and frees the same large blocks repeatedly. By default glibc returns each to the
# kernel, which costs a tenth of the time. Huge pages save another twentieth.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 \
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help
.PHONY: help install serve test test-all test-processes test-ci test-long check docs docs-serve fix sbom bench train image smoke clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: $(VENV)/train.done ## install the pinned packages to serve, train and measure, into .venv

serve: $(VENV)/app.done ## serve the bundled checkpoint on http://localhost:8000
	$(BIN)/xcit-serve serve

test: $(VENV)/dev.done ## run the in-process tests and 60 end-to-end tests, in about 2 minutes
	$(PYTEST) -m 'not thorough and not slow'

test-all: test test-processes ## run these and the thorough tests: attacks, hostile files, browser, several processes, docs
	$(PYTEST) -m 'thorough and not slow' --ignore tests/e2e/test_schema.py
	$(SCHEMA)

test-processes: $(VENV)/dev.done ## run the tests of the service again, on a remote engine and with two HTTP workers
	$(REMOTE_ENGINE)
	XCIT_TEST_WORKERS=2 $(PYTEST) -m 'not slow and not one_process' tests/e2e

# Each thorough end-to-end test runs once: with two HTTP workers, if it can.
test-ci: test ## run what continuous integration does: test-all without repetitions
	$(REMOTE_ENGINE)
	$(PYTEST) -m 'thorough and not slow and (one_process or not e2e)' --ignore tests/e2e/test_schema.py
	XCIT_TEST_WORKERS=2 $(PYTEST) -m 'thorough and not slow and not one_process' tests/e2e
	$(SCHEMA)

test-long: $(VENV)/dev.done ## run the slow tests, for an hour or more: endurance, searches, large loads
	$(BIN)/pytest -m slow
	SCHEMA_EXAMPLES=1000 $(BIN)/pytest tests/e2e/test_schema.py

check: $(VENV)/dev.done ## check formatting, lint, types, layers, language and known vulnerabilities; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_layers.py
	$(BIN)/python scripts/plain_english.py
	$(BIN)/python scripts/audit.py

docs: $(VENV)/dev.done ## build the documentation site into site/
	$(BIN)/python -m mkdocs build --strict

docs-serve: $(VENV)/dev.done ## serve the documentation site on http://localhost:8001 and rebuild it on changes
	$(BIN)/python -m mkdocs serve --dev-addr localhost:8001

fix: $(VENV)/dev.done ## format, and fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sbom: $(VENV)/dev.done ## write sbom.cdx.json, the bill of materials of the service
	$(BIN)/python scripts/sbom.py sbom.cdx.json

bench: $(VENV)/dev.done ## measure the server against its parts: 224 pixels, dim 128, 32 clients
	test -d $(BENCH)/photos || $(BIN)/python -m benchmarks.images $(BENCH)/photos --count 64
	$(BIN)/python -m benchmarks.checkpoints dim128 $(BENCH)/dim128.safetensors
	$(BIN)/python -m benchmarks.serve --start --closed 1 32 \
		--checkpoint $(BENCH)/dim128.safetensors --images $(BENCH)/photos

train: $(VENV)/train.done ## train the bundled checkpoint, or resume: make train DATA=images
	OMP_NUM_THREADS=1 $(KEEP_MEMORY) $(BIN)/torchrun --nproc-per-node $(CORES) \
		-m training run $(DATA) --out $(RUN) --name xcit-$(notdir $(RUN))

image: ## build the container image
	docker build --tag xcit-serve $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) .

smoke: ## build the container image, start it hardened, test it and remove it
	scripts/docker-smoke.sh

clean: ## remove the output of all targets except training runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info sbom.cdx.json site

$(VENV)/python.done:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/app.done: $(VENV)/python.done requirements.txt pyproject.toml clients/python/pyproject.toml
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) --requirement requirements.txt
	$(PIP_QUIETLY) --no-deps --editable . --editable clients/python
	touch $@

$(VENV)/train.done: $(VENV)/app.done requirements-dev.txt
	$(PIP) --constraint requirements-dev.txt matplotlib
	touch $@

$(VENV)/dev.done: $(VENV)/app.done requirements-dev.txt
	$(PIP) --requirement requirements-dev.txt
	$(PIP_QUIETLY) --no-deps $(shell sed -n 's/^\# without its dependencies: //p' requirements-dev.txt)
	touch $@
