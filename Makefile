# Set-up is a stamp file: .venv/.ready is newer than the lock and the project's description when all is installed.
PYTHON ?= python3
UV_VERSION := 0.13.8
BIN := .venv/bin
READY := .venv/.ready
PART := 1/1

.DEFAULT_GOAL := help
.PHONY: help demo test long up check bench lock

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## Set everything up, distil a student on real data, load it and print a table
	@$(BIN)/retort demo

test: $(READY)  ## Set everything up and run all tests but the long ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal --durations=25

# With -v, so that the names of those that were chosen are there to read.
long: $(READY)  ## Run the tests that take minutes to an hour; with PART=2/16 a share of those that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal --durations=25 -v -m long -p tests.parts --part $(PART)

up: $(READY)  ## Start the service and one worker on this machine
	@$(BIN)/retort up

check: $(READY)  ## Lint, formats, types, imports, Dockerfiles, compose file, weak packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/python .ci/audit.py

bench: $(READY)  ## Run every benchmark
	@set -e; for file in benchmarks/[a-z]*.py; do \
		test -e "$$file" || { echo "There are no benchmarks in benchmarks/."; exit 1; }; \
		echo "== $$file"; $(BIN)/python "$$file"; done

lock: $(BIN)/uv  ## Choose the newest versions that fit and write them down with their hashes
	env -u UV_FIND_LINKS -u UV_EXTRA_INDEX_URL $(BIN)/uv pip compile --quiet --no-config --upgrade \
		--universal --generate-hashes --all-extras \
		--custom-compile-command "make lock" pyproject.toml --output-file requirements.lock

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed; $(PYTHON) is {v}.")'
	@$(PYTHON) -c 'import ensurepip' || { echo "$(PYTHON) has no ensurepip; install it (on Debian: apt-get install python3-venv)."; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# The build backend is in the lock, so that nothing unpinned is fetched to install the project itself.
$(READY): $(BIN)/uv requirements.lock pyproject.toml
	@echo "Setting up .venv; the first time this fetches about 3 GB of packages."
	@$(BIN)/uv pip sync --compile-bytecode --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
