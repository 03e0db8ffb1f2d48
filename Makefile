# make train    the environment, then the main job: LeNet-5 on the embedded images
# make test     the environment, then the tests
# make check    the linter and the type checker
# make lock     write requirements.lock anew from pyproject.toml (needs uv)
#
# PYTHON=python3.12 chooses the interpreter, VENV=DIR the environment's folder, PLATFORM=cuda (or cuda12, tpu) adds what
# that accelerator needs, EXPERIMENT=lenet_fashion and ARGS="--seed 3" what is trained.

PYTHON ?= python3
VENV ?= .venv
PLATFORM ?= cpu
EXPERIMENT ?= lenet_mini
ARGS ?=

# Where make runs in a folder without python3's venv or in one that was moved, the stamp is missing or wrong and the
# environment is made again.
STAMP := $(VENV)/installed-$(PLATFORM)
JAX = $(shell sed -n 's/^jax==\([0-9.]*\).*/\1/p' requirements.lock)
BACKEND = $(if $(filter cuda,$(PLATFORM)),cuda13,$(PLATFORM))

.PHONY: train test check lock env clean

train: $(STAMP)
	$(VENV)/bin/python scripts/train.py $(EXPERIMENT) $(ARGS)

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n 2

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

env: $(STAMP)

# The lock pins every package by hash; ours goes in without its dependencies, which the lock has brought, and without a
# build environment of its own, since the lock brings the build backend too.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "cnnjax needs Python 3.11 or newer, and $(PYTHON) is not; try make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "$(PYTHON) has no venv; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(if $(filter-out cpu,$(PLATFORM)),$(VENV)/bin/python -m pip install --quiet "jax[$(BACKEND)]==$(JAX)")
	@touch $@

lock:
	uv pip compile pyproject.toml --extra test --extra dev --universal --python-version 3.11 \
	  --fork-strategy fewest --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
