# The two commands of the README are `make demo` and `make test`; everything else is a part of them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow lint benchmark clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/sightline demo --out out/demo

lint: setup
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout 3600

# Minutes long, and its figures mean something on an idle machine only; each file says its machine, versions, command.
benchmark: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,ray]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/methods.py --slow --write benchmarks/methods.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/methods.py --memory --write benchmarks/methods.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/peers.py --memory --write benchmarks/peers.md
	$(BIN)/python benchmarks/sweep.py --write benchmarks/sweep.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/batch.py --ray --write benchmarks/batch.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/batch.py --growth --write benchmarks/batch.md
	$(BIN)/python benchmarks/export.py --write benchmarks/export.md

clean:
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache
