# make train    create the environment, then train LeNet-5 on the embedded images
# make test     create the environment, then run the fast tests, in less than three minutes on two cores
# make test-all run every test, with more Hypothesis examples
# make oracle   create a separate environment (downloads torch); compare the converters with torchvision, timm, Keras,
#               and run sweeps through Ray, submitit and Optuna
# make parity   the same for every variant with published weights; writes docs/parity.md
# make faults   inject all faults of docs/reliability.md into real training runs; FAULTS_SIZE=ci repeats each one fewer times
# make native   build the optional CPU kernels, which make training faster (needs g++ and oneDNN's headers)
# make docs     build the documentation site in build/docs, in a separate environment; its pages run their code
# make check    run the linter, the type checker and the import contracts
# make lock     regenerate requirements.lock from pyproject.toml (needs uv)
#
# PYTHON=python3.12 selects the interpreter and VENV=DIR the folder of the environment. PLATFORM=cuda (or cuda12, tpu)
# adds the packages of that accelerator. EXPERIMENT=lenet_fashion and ARGS="--seed 3" select what to train.

PYTHON ?= python3
VENV ?= .venv
ORACLE_VENV ?= .venv-oracle
DOCS_VENV ?= .venv-docs
PLATFORM ?= cpu
EXPERIMENT ?= lenet_mini
ARGS ?=
FAULTS_SIZE ?= full

# Markers of the slow tests, which `make test` leaves out; pyproject.toml describes them.
SLOW = compiles_large or trains_long or many_processes or many_inputs

ifeq ($(filter $(PLATFORM),cpu cuda cuda12 tpu),)
$(error PLATFORM is $(PLATFORM); choose cpu, cuda, cuda12 or tpu)
endif

# An environment works only in the folder and with the Python it was created for. In another folder or with another Python, the stamp's name differs, and the environment is recreated.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
STAMP := $(VENV)/installed-$(VERSION)-$(shell echo '$(CURDIR)' | cksum | cut -d ' ' -f 1)
PLATFORM_STAMP := $(if $(filter cpu,$(PLATFORM)),$(STAMP),$(STAMP)-$(PLATFORM))
ORACLE_STAMP := $(ORACLE_VENV)/$(notdir $(STAMP))
DOCS_STAMP := $(DOCS_VENV)/$(notdir $(STAMP))
JAX = $(shell sed -n 's/^jax==\([0-9.]*\).*/\1/p' requirements.lock)
ON = $(if $(filter-out cpu,$(PLATFORM)),--platform $(PLATFORM:cuda12=cuda))
BACKEND = $(if $(filter cuda,$(PLATFORM)),cuda13,$(PLATFORM))

.PHONY: train test test-all native oracle parity faults docs check lock env clean

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

# A warning, such as a dead link or an example that fails, ends the build.
docs: $(DOCS_STAMP)
	CNNJAX_NATIVE=0 $(DOCS_VENV)/bin/python -m sphinx --quiet --fail-on-warning --builder html docs build/docs
	@echo "open build/docs/index.html"

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

env: $(PLATFORM_STAMP)

# An environment that is complete is updated in place, because other processes may be using it.
CREATE = test -e $@ || $(PYTHON) -m venv --clear

# The lock pins every package by hash. cnnjax itself is installed without dependencies and without build isolation,
# because the lock includes the dependencies and the build backend.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c '' || { echo "$(PYTHON) does not run; name another Python with make PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11, which cnnjax needs; try make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "$(PYTHON) has no venv; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	$(CREATE) $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMP)-%: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet "jax[$(BACKEND)]==$(JAX)"
	@touch $@

# torch is not in the lock, because the right build depends on the machine. All other packages keep their locked version.
$(ORACLE_STAMP): requirements.lock pyproject.toml
	$(CREATE) $(ORACLE_VENV)
	$(ORACLE_VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(ORACLE_VENV)/bin/python -m pip install --quiet --no-build-isolation --editable ".[oracle]"
	$(ORACLE_VENV)/bin/python -m pip install --quiet --no-deps --require-hashes --requirement tests/oracle/networks.txt
	@touch $@

$(DOCS_STAMP): requirements.lock pyproject.toml
	$(CREATE) $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(DOCS_VENV)/bin/python -m pip install --quiet --no-build-isolation --editable ".[docs]"
	@touch $@

lock:
	uv pip compile pyproject.toml --extra test --extra dev --universal --python-version 3.11 \
	  --fork-strategy fewest --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) $(ORACLE_VENV) $(DOCS_VENV) build .mypy_cache .pytest_cache .ruff_cache .grimp_cache .import_linter_cache
