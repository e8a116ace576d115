# Every target makes the environment it needs, from nothing: .venv holds the versions
# of constraints.txt, .venv-oldest those of constraints-oldest.txt.

PYTHON ?= python3.11
# Where the benchmarks find their tables: $(DATA)/adbench/*.npz, $(DATA)/pmlb/*.tsv.gz.
DATA ?= data
# More arguments for pytest: make test ARGS="-x -k vae"
ARGS ?=

BIN := .venv/bin
OLDEST := .venv-oldest/bin

# ARGS come after these, so that ARGS="-n 4" is heard.
PYTEST := -m pytest -n 2 --dist worksteal
MODULES := $(sort $(shell find skrepr -name '*.py'))

.DEFAULT_GOAL := help
.NOTPARALLEL:

# A second thread gives small networks nothing on idle cores, and on busy ones costs a
# factor of five to twenty. With one, figures also are the same on every machine.
demo test test-oldest coverage docs: export OMP_NUM_THREADS := 1
demo test test-oldest coverage docs: export MKL_NUM_THREADS := 1
demo test test-oldest coverage docs: export OPENBLAS_NUM_THREADS := 1
test test-oldest coverage: export SCIPY_ARRAY_API := 1

.PHONY: help demo test test-oldest lint format docs bench bench-anomaly \
	bench-representation bench-generation bench-speed coverage clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1@\2/p' Makefile | \
		awk -F@ '{printf "%-18s %s\n", $$1, $$2}'

demo: .venv/.stamp-demo ## Run the quickstart
	MPLBACKEND=Agg $(BIN)/python docs/examples/plot_quickstart.py

test: .venv/.stamp-test ## Run the tests and the doctests
	$(BIN)/python $(PYTEST) $(ARGS)

test-oldest: .venv-oldest/.stamp-test ## The same with the oldest supported versions
	$(OLDEST)/python $(PYTEST) $(ARGS)

coverage: .venv/.stamp-test ## Run the tests and list the lines they miss
	$(BIN)/python $(PYTEST) --cov --cov-report=term $(ARGS)

lint: .venv/.stamp-lint ## Check code, spelling, types and docstrings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python -m numpydoc lint $(MODULES)

format: .venv/.stamp-lint ## Mend what can be mended without a thought
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.stamp-docs ## Build the documentation into docs/_build/html
	@rm -rf docs/api/generated # pages of what may be gone
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

bench: bench-anomaly bench-representation bench-generation ## Run the benchmarks on DATA=folder, with adbench/ and pmlb/

bench-anomaly: .venv/.stamp-bench ## Compare anomaly scores with other detectors, and ablate them
	$(BIN)/python benchmarks/anomaly.py "$(DATA)/adbench"
	$(BIN)/python benchmarks/anomaly.py "$(DATA)/adbench" --contenders ablation
	$(BIN)/python benchmarks/threshold.py "$(DATA)/adbench"

bench-representation: .venv/.stamp-bench ## Compare codes with other embeddings, ablate and fine-tune them
	$(BIN)/python benchmarks/representation.py "$(DATA)/pmlb"
	$(BIN)/python benchmarks/representation.py "$(DATA)/pmlb" --contenders labels --widths 16
	$(BIN)/python benchmarks/representation.py "$(DATA)/pmlb" --contenders ablation --widths 16
	$(BIN)/python benchmarks/fine_tuning.py "$(DATA)/pmlb"

bench-generation: .venv/.stamp-bench ## Compare generated rows and filled holes with those of others
	$(BIN)/python benchmarks/generation.py "$(DATA)/pmlb"
	$(BIN)/python benchmarks/imputation.py "$(DATA)/pmlb"

bench-speed: .venv/.stamp-bench ## Time fits, scores and searches beside other packages
	$(BIN)/python -W ignore benchmarks/speed.py
	$(BIN)/python benchmarks/objectives.py

clean: ## Remove all that make has made, the environments included
	rm -rf .venv .venv-oldest build dist docs/_build docs/auto_examples docs/api/generated
	rm -rf .mypy_cache .pytest_cache .ruff_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each extra: it is installed again when the files it depends on change.
# The variables, unlike `pip install -c`, also reach the isolated build of the package.
.venv/.stamp-venv:
	$(PYTHON) -m venv --clear .venv
	@touch $@

.venv/.stamp-%: pyproject.toml constraints.txt | .venv/.stamp-venv
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(BIN)/python -m pip install -q -e ".[$*]"
	@touch $@

.venv-oldest/.stamp-venv:
	$(PYTHON) -m venv --clear .venv-oldest
	@touch $@

.venv-oldest/.stamp-%: pyproject.toml constraints-oldest.txt | .venv-oldest/.stamp-venv
	PIP_CONSTRAINT=constraints-oldest.txt PIP_BUILD_CONSTRAINT=constraints-oldest.txt \
		$(OLDEST)/python -m pip install -q -e ".[$*]"
	@touch $@
