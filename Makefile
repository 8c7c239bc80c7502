# The two commands of the README, and the long ones.  Each creates .venv when there is none.
PYTHON ?= python3
BIN := .venv/bin
# A worker process beside each core's thread: threads that wait for one another spin.
TEST_ENV := OMP_NUM_THREADS=1
# Files side by side, one to a core: many tests wait for processes of their own.
PARALLEL := -n auto --maxprocesses=4 --dist=loadfile
# Tests whose tolerances must hold whatever vector instructions a processor has.
NUMERICAL := $(addprefix tests/test_,statistics.py tails.py weights.py precision.py kernels.py kernels_compiled.py \
	triton.py sincos.py multivariate.py directions.py)

.PHONY: demo world-model test lint test-long test-hosts transformers docs mutations clean

demo: .venv/installed
	$(BIN)/python -m integrations.lightly.demo

# A world model from pixels, with SIGReg and without; some 140 s of processor time.
world-model: .venv/installed
	$(BIN)/python -m integrations.world_model.demo

test: lint
	$(TEST_ENV) $(BIN)/python -m pytest -m "not long" $(PARALLEL)
	$(TEST_ENV) ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -m "not long" $(PARALLEL) $(NUMERICAL)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-long: .venv/installed
	$(TEST_ENV) HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -m long
	$(TEST_ENV) $(BIN)/python -m pytest $(NUMERICAL)
	$(TEST_ENV) ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest $(NUMERICAL)
	$(TEST_ENV) ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest $(NUMERICAL)

# Heavy hosts have an environment of their own.
# EB_JEPA_SOURCE, STABLE_WORLDMODEL_SOURCE and SOLO_LEARN name clones.
test-hosts: .venv-hosts/installed
	$(TEST_ENV) SIGREG_HOSTS=1 .venv-hosts/bin/python -m pytest -W default tests/hosts
	$(TEST_ENV) .venv-hosts/bin/python -m pytest -W default tests/test_docs.py \
		-k "top_to_bottom and (transformers or stable_pretraining)"

# The recipe for Hugging Face Transformers: minutes on two cores, no download of models or data.
transformers: .venv-hosts/installed
	.venv-hosts/bin/python -m integrations.transformers.train

.venv-hosts/installed: constraints-hosts.txt
	$(PYTHON) -m venv .venv-hosts
	.venv-hosts/bin/pip install --quiet -c constraints-hosts.txt \
		-e '.[dev,transformers,stable-pretraining,stable-worldmodel]'
	touch $@

# The site, in docs/_build/html; warnings are errors.  Its tutorial trains a small network.
docs: .venv/docs-installed
	$(TEST_ENV) $(BIN)/python -m sphinx -nW --keep-going docs docs/_build/html
	@echo "open docs/_build/html/index.html"

.venv/docs-installed: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

mutations: .venv/installed
	$(TEST_ENV) $(BIN)/python -m tests.mutations

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "sigreg needs Python 3.10 or newer; name one, as in: make test PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-hosts docs/_build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
