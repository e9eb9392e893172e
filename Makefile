# Two commands do everything: `make demo` runs the main job, `make test` the tests.
# Both make the environment in .venv at the first call and reuse it afterwards.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Threads that wait must not spin: the cores are few.
export OMP_WAIT_POLICY := passive

# Of `make siege`: how many times runs are killed.
KILLS ?= 200

.PHONY: demo test slow siege lint format docs dist release clean

demo: $(STAMP)
	$(BIN)/vardiu distill mog40-codes --out runs/demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q

slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

siege: $(STAMP)
	$(BIN)/python benchmarks/siege.py --kills $(KILLS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in build/site: without a network, and without a warning.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python website/check.py build/site

# The wheel and the source distribution, in dist/, with their metadata checked.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*

# Refuses where changelog, version or tests do not agree; publishes nothing.
release: $(STAMP)
	$(BIN)/python website/release.py

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "vardiu needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c "import venv, ensurepip" 2>/dev/null || \
		{ echo "this Python has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
