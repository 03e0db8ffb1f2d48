# make train    the environment, then the main job: LeNet-5 on the embedded images
# make test     the environment, then the tests that are quick, in less than three minutes on two cores
# make test-all every test, with more drawn examples
# make oracle   an environment of its own, then the converters against torchvision, timm and Keras (fetches torch)
# make parity   the same for every size of network, written to docs/parity.md
# make faults   break real trainings in every way docs/reliability.md speaks of; FAULTS_SIZE=ci does less of each
# make native   the optional convolution for CPUs, which is several times faster (needs g++ and oneDNN's headers)
# make check    the linter, the type checker and the direction of imports
# make lock     write requirements.lock anew from pyproject.toml (needs uv)
#
# PYTHON=python3.12 chooses the interpreter, VENV=DIR the environment's folder, PLATFORM=cuda (or cuda12, tpu) adds what
# that accelerator needs, EXPERIMENT=lenet_fashion and ARGS="--seed 3" what is trained.

PYTHON ?= python3
VENV ?= .venv
ORACLE_VENV ?= .venv-oracle
PLATFORM ?= cpu
EXPERIMENT ?= lenet_mini
ARGS ?=
FAULTS_SIZE ?= full

# Why a test is left out of `make test`; pyproject.toml says what each marker means.
SLOW = compiles_large or trains_long or many_processes or many_inputs

ifeq ($(filter $(PLATFORM),cpu cuda cuda12 tpu),)
$(error PLATFORM is $(PLATFORM); choose cpu, cuda, cuda12 or tpu)
endif

# An environment belongs to the folder and the Python it was made for; for another one the stamp has another name, and
# the environment is made anew.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
STAMP := $(VENV)/installed-$(VERSION)-$(shell echo '$(CURDIR)' | cksum | cut -d ' ' -f 1)
PLATFORM_STAMP := $(if $(filter cpu,$(PLATFORM)),$(STAMP),$(STAMP)-$(PLATFORM))
ORACLE_STAMP := $(ORACLE_VENV)/$(notdir $(STAMP))
JAX = $(shell sed -n 's/^jax==\([0-9.]*\).*/\1/p' requirements.lock)
ON = $(if $(filter-out cpu,$(PLATFORM)),--platform $(PLATFORM:cuda12=cuda))
BACKEND = $(if $(filter cuda,$(PLATFORM)),cuda13,$(PLATFORM))

.PHONY: train test test-all native oracle parity faults check lock env clean

train: $(PLATFORM_STAMP)
	$(VENV)/bin/python scripts/train.py $(EXPERIMENT) $(ON) $(ARGS)

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not ($(SLOW))"

test-all: $(STAMP)
	CNNJAX_TESTS=ci $(VENV)/bin/python -m pytest -n 2 --dist worksteal

native: $(STAMP)
	$(VENV)/bin/python -m cnnjax.ops.native.build

oracle: $(ORACLE_STAMP)
	$(ORACLE_VENV)/bin/python -m pytest -n 2 -o python_files='oracle_*.py' -o filterwarnings=ignore tests/oracle

parity: $(ORACLE_STAMP)
	$(ORACLE_VENV)/bin/python tests/oracle/parity.py --all --write

faults: $(STAMP)
	$(VENV)/bin/python -m tests.faults --size $(FAULTS_SIZE) $(if $(filter full,$(FAULTS_SIZE)),--write)
	$(VENV)/bin/python -m tests.hostile.fuzz --count $(if $(filter full,$(FAULTS_SIZE)),10000,500) --seed 0

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

env: $(PLATFORM_STAMP)

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
	@touch $@

$(STAMP)-%: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet "jax[$(BACKEND)]==$(JAX)"
	@touch $@

# torch is not in the lock: which build of it fits differs from machine to machine. All others keep their locked version.
$(ORACLE_STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear $(ORACLE_VENV)
	$(ORACLE_VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(ORACLE_VENV)/bin/python -m pip install --quiet --no-build-isolation --editable ".[oracle]"
	@touch $@

lock:
	uv pip compile pyproject.toml --extra test --extra dev --universal --python-version 3.11 \
	  --fork-strategy fewest --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) $(ORACLE_VENV) .mypy_cache .pytest_cache .ruff_cache .grimp_cache .import_linter_cache
