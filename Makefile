# The two commands of the README are `make demo` and `make test`; everything else is a part of them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow test-oldest lint benchmark clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/sightline demo --out out/demo

lint: setup
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/mypy

# Two processes, a file to each at a time: `make test WORKERS=0` runs everything in one.
WORKERS ?= 2
test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout 3600

# The lowest versions that pyproject.toml states, in an environment of their own. Old packages warn of what newer ones
# bring, so that warnings are no errors here.
OLDEST := .venv-oldest
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -o filterwarnings=default

$(OLDEST)/.installed: pyproject.toml tools/oldest.py
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check tomli
	$(OLDEST)/bin/python tools/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/constraints.txt -e '.[dev]'
	touch $@

# Minutes long, and its figures mean something on an idle machine only; each file says its machine, versions, command.
benchmark: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,ray]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/methods.py --slow --write benchmarks/methods.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/methods.py --memory --write benchmarks/methods.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/peers.py --memory --write benchmarks/peers.md
	$(BIN)/python benchmarks/sweep.py --write benchmarks/sweep.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check connected-components-3d
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/components.py --write benchmarks/components.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/batch.py --ray --write benchmarks/batch.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/batch.py --growth --write benchmarks/batch.md
	$(BIN)/python benchmarks/export.py --write benchmarks/export.md

clean:
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache
