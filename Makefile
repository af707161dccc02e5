# The README's two commands are `make demo` and `make test`; the rest supports them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-browser test-slow test-oldest fuzz mutants corpus licences sbom audit-dependencies lint docs
.PHONY: gallery benchmark clean

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

# In headless Chromium, the one on the path or in CHROME; skipped where there is none. Screenshots to look at:
# SIGHTLINE_SCREENSHOTS=out/screenshots make test-browser
test-browser: setup
	$(BIN)/python -m pytest -m browser tests/browser

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout 3600

# The documentation site, into site/; `make gallery` draws its pictures again.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

gallery: setup
	$(BIN)/python tools/gallery.py
# Broken files for every reader; the tests run the first few hundred. Failing cases are kept in fuzz-failures/.
SECONDS ?= 3600
fuzz: setup
	$(BIN)/python tools/fuzz.py --seconds $(SECONDS) --keep fuzz-failures

# One changed operation at a time: do the tests notice? Hours; stopped and started again, it goes on.
mutants: setup
	$(BIN)/python tools/mutants.py --count 400 --results out/mutants.jsonl

corpus: setup
	$(BIN)/python tools/corpus.py --write docs/image-files.md

# What is installed, from its own metadata: licences as a table, and a CycloneDX bill of materials.
EXTRAS ?= all
licences: setup
	@$(BIN)/python tools/dependencies.py --extras $(EXTRAS)

sbom: setup
	$(BIN)/python tools/dependencies.py --extras $(EXTRAS) --sbom sbom.json

# Known vulnerabilities of what is installed; asks the package index's advisory service, so it needs a network.
audit-dependencies: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m pip_audit --local --skip-editable

# The tests on the lowest versions in pyproject.toml, in a separate environment. Old packages warn about newer ones, so
# warnings are not errors here, and other packages' deprecations are not shown, as Python itself does not show them.
OLDEST := .venv-oldest
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -o filterwarnings=default -W ignore::DeprecationWarning

$(OLDEST)/.installed: pyproject.toml tools/oldest.py
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check tomli
	$(OLDEST)/bin/python tools/oldest.py > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $(OLDEST)/oldest.txt -e .
	touch $@

# Takes minutes and needs an idle machine; each file states its machine, versions and command.
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
	rm -rf out build dist site .mypy_cache .ruff_cache .pytest_cache
