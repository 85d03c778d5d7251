# `make quickstart` and `make test` are all that a fresh machine needs; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
# Two processes, each of which runs whole files: most tests use one thread, and many wait for processes that they start.
# Files run in their order, in which the many short ones of tests/unit come last, so that both processes end together.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make quickstart  set up .venv, then train, sample and evaluate the digits cascade (python run.py)"
	@echo "make test        the tests that need no special hardware, at most 5 minutes on 2 cores"
	@echo "make test-all    the same and everything marked slow, slurm, browser or gpu (skipped where it cannot run)"
	@echo "make mistakes    every bad command of tests/mistakes, and how many were refused well"
	@echo "make lint        ruff, import-linter (the layers of the design), mypy"
	@echo "make docs        the documentation with its API reference, into build/site"
	@echo "make wheels      check that wheels of all dependencies exist for Python 3.11, 3.12 and 3.13 (downloads metadata only)"
	@echo "make constraints resolve constraints.txt anew from pyproject.toml"
	@echo "make clean       remove .venv and caches (runs/ stays)"

# uv installs from its cache by hard links, in seconds; pip is used where uv cannot be installed. Bytecode is compiled
# once, since a process that has to compile what it imports takes twice as long to start.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --constraint constraints.txt uv; then \
	  PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS)]'; \
	else \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'; \
	fi
	@touch $@

.PHONY: install
install: $(VENV)/.installed

.PHONY: quickstart
quickstart: install
	$(BIN)/python run.py

.PHONY: test
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m "not slow and not slurm and not browser and not gpu"

.PHONY: test-all
test-all: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbmake --nbmake-timeout=900 docs/tour.ipynb
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -rs -m "(slow or browser or gpu) and not slurm"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -rs -m slurm   # each process has its own cluster

.PHONY: mistakes
mistakes: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mistakes

.PHONY: lint
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Strict: a broken link, an unknown name in the API reference or a page outside the navigation is an error.
.PHONY: docs
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: constraints
constraints: install
	printf 'torch\ntorchvision\nuv\n' | PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip compile pyproject.toml - \
	  --extra dev --python-version 3.11 --no-header --no-annotate --quiet --output-file constraints.txt

# hydra-core needs antlr4-python3-runtime 4.9, of which there is no wheel on PyPI, and flash-attn is built where it is used.
.PHONY: wheels
wheels: install
	@mkdir -p build
	for version in 3.11 3.12 3.13; do \
	  PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip compile pyproject.toml --extra dev --python-version $$version --constraint constraints.txt \
	    --only-binary :all: --no-binary antlr4-python3-runtime --quiet --output-file build/wheels-$$version.txt || exit 1; \
	done

.PHONY: clean
clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
