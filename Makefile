# `make run` and `make test` do all the set-up on a fresh machine; the rest is for developers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

# Most of a test run is waiting, so four processes suit two cores. A file stays in one process, and files keep the
# order of tests/conftest.py. The tests start some hundred processes, which would all compile the same files where
# Python may not keep what it compiled.
PARALLEL ?= -n 4 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

.PHONY: run install test check bench css clean

run: $(VENV)/.run
	@exec $(BIN)/daemonpulse up $(ARGS)

install: $(VENV)/.run
	@echo "The program is $(BIN)/daemonpulse. To call it daemonpulse everywhere, put a link to it where your shell looks:"
	@echo "  ln -s '$(CURDIR)/$(BIN)/daemonpulse' ~/.local/bin/"

test: $(VENV)/.test
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: $(VENV)/.check
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@DAEMONPULSE_DATA_DIR=$$(mktemp -d) $(BIN)/python manage.py makemigrations --check --dry-run --verbosity 0
	@DAEMONPULSE_DATA_DIR=$$(mktemp -d) $(BIN)/python manage.py check --verbosity 0 --fail-level WARNING
	@echo "all checks passed"

bench: $(VENV)/.test
	@$(BIN)/python -m benchmarks.bench $(ARGS)

css:
	npm ci --no-audit --no-fund
	npm run css

$(VENV)/bin/pip:
	@echo "Making an environment for Python in $(VENV)…"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing what DaemonPulse needs into $(VENV); this takes a minute or two, once…"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.check: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(INSTALL) -e '.[check]'
	@touch $@

# The llama.cpp wheel does not exist for every platform; without it its tests are skipped, and say so.
$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(INSTALL) -e '.[test,postgres]'
	-$(INSTALL) -e '.[engine]'
	@touch $@

clean:
	rm -rf $(VENV) node_modules
