# Every target sets up what it needs, in .venv. Needed: Python 3.11 or later, git and make.

BIN := .venv/bin
MANAGE := $(BIN)/python manage.py
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header $(LOCK_ARGS)

.PHONY: setup run serve test test-quick test-clients test-image check audit bench bench-short screenshots lock

setup: .venv/.development

# Try it out: demo tenants, a login and a key, which it prints.
run: export DEBUG := true
run: .venv/.runtime
	@$(MANAGE) serve --check-port
	@$(MANAGE) migrate --verbosity 0
	@$(MANAGE) sync_prices
	@$(MANAGE) load_demo
	@$(MANAGE) serve

# Production-like, with the environment (or .env) as given. Migrates nothing.
serve: .venv/.runtime
	@$(MANAGE) serve

# Other options for pytest: make test PYTEST_ARGS="-k demo"
PYTEST_ARGS ?= -n $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) * $(A_CORE)))) --maxprocesses 8 --dist worksteal
# Two processes a core: half of a test's time is waiting for a server, a disk or a browser.
A_CORE := 2

# With COVERAGE=true, as in CI, every line and branch is traced, in the servers too, which takes far longer.
COVERAGE ?=
ifdef COVERAGE
COVER_FIRST := --cov --cov-report= --cov-fail-under=0
COVER_LAST := --cov --cov-append --cov-report=term
endif

test: .venv/.development
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest --db sqlite $(COVER_FIRST) $(PYTEST_ARGS)
	$(BIN)/python -m pytest --db postgres $(COVER_LAST) $(PYTEST_ARGS)

# The inner loop: all that starts no process of ours, and so waits for little.
test-quick: A_CORE := 1
test-quick: .venv/.development
	$(BIN)/python -m pytest -m "pure or db" $(PYTEST_ARGS)

# The clients that agents are built on, unchanged, against the guard; Node's, too, where there is npm.
NODE_CLIENTS := $(if $(shell command -v npm),tests/clients/node_modules/.installed)
test-clients: .venv/.development .venv-clients/.installed $(NODE_CLIENTS)
	GUARD_TEST_CLIENTS=required $(BIN)/python -m pytest tests/clients/test_clients.py $(PYTEST_ARGS)

# Each step of the Dockerfile without Docker, and the product started from what they made.
test-image: .venv/.development
	$(BIN)/python -m tests.deploy.dockerfile

check: export DEBUG := true
check: export DATABASE_URL := sqlite://:memory:
check: .venv/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(MANAGE) makemigrations --check --dry-run
	$(MANAGE) check --fail-level WARNING
	$(BIN)/djlint --check --lint --quiet $(wildcard */templates)
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml
	$(BIN)/kubernetes-validate --strict --quiet deploy/kubernetes/*.yaml

# Whether a package of a lock has a known vulnerability. Asks an advisory service: it needs a network, and CI has none.
audit: .venv-audit/bin/pip-audit
	for lock in $(wildcard requirements*.lock); do $< --disable-pip --require-hashes --requirement $$lock || exit 1; done

bench: .venv/.development
	$(BIN)/python -m tests.bench $(BENCH_ARGS)
	$(BIN)/python -m tests.bench.growth

# Whether a call has become dearer by half, in a fixed piece of work: half a minute, on a machine of any speed.
bench-short: .venv/.development
	$(BIN)/python -m tests.bench.short

# The pictures in the README; needs chromium.
screenshots: .venv/.development
	$(BIN)/python -m tests.screenshots

# After a change of dependencies; LOCK_ARGS=--upgrade takes the newest versions.
lock: .venv/bin/python
	test -x $(BIN)/uv || $(PIP) uv
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) pyproject.toml --group dev --constraint requirements.lock --output-file requirements-dev.lock
	$(COMPILE) --group clients --output-file requirements-clients.lock

.venv/bin/python:
	@for python in python3.11 python3; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			exec $$python -m venv .venv; \
		fi; \
	done; \
	echo 'Python 3.11 or later is needed, as python3.11 or python3.' >&2; exit 1

.venv/.runtime: requirements.lock | .venv/bin/python
	@echo 'Installing into .venv ...'
	@$(PIP) --no-deps --require-hashes -r requirements.lock
	@touch $@

# The development lock holds the runtime's packages too, in the same versions.
.venv/.development: requirements-dev.lock requirements.lock | .venv/bin/python
	@echo 'Installing into .venv, with the tools for development ...'
	@$(PIP) --no-deps --require-hashes -r requirements-dev.lock
	@touch $@ .venv/.runtime

.venv-audit/bin/pip-audit: | .venv/bin/python
	$(BIN)/python -m venv --clear .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit

.venv-clients/.installed: requirements-clients.lock | .venv/bin/python
	$(BIN)/python -m venv --clear .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

tests/clients/node_modules/.installed: tests/clients/package-lock.json
	npm ci --prefix tests/clients --no-audit --no-fund --loglevel=error
	@touch $@
