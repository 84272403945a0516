# make demo: set up and run the main job.  make test: set up and run the tests.  make check: lint, types, tests without a daemon.
# make demo-http: the same over HTTP.  make play: a page to try programs in, in the browser.
# make test-page: the page in Chromium, which has to be there (Debian: chromium), and clients on Node.
# make test-build: build whole wheels, also with zig and for arm64; takes minutes, and needs a package index.
# make test-deploy RELEASES=bookworm: install promptlog as a service in a Debian root that systemd boots (systemd-nspawn),
# and check it from inside; needs root, mmdebstrap, systemd-container and Debian's archive, and takes minutes.
# make placement: make placement.h again, after a change to the engine or to a script that the cell evaluates (x86-64).
# make test-sanitized: the hostile corpus on a cell with ASan and UBSan; takes minutes.
# make soak SECONDS=600: mixed load and kills.  make faults KILLS=300: kills at random moments, the daemon's too.
# make bench ROUNDS=3: promptlog alone, and beside one bad client, which takes 25 minutes a round (BAD_SECONDS=0 leaves
# it out).  make bench-peers ROUNDS=5: beside its peers, which come from npm and PyPI.
# make fuzz BYTES=20000000: damaged frames to a daemon.  make fuzz-guided RUNS=5000000: the readers, guided by coverage.
# make fuzz-cell RUNS=10000000: what the QuickJS cell reads, guided by coverage; needs clang.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SECONDS ?= 600
KILLS ?= 300
BYTES ?= 20000000
RUNS ?= 5000000
ROUNDS ?= 1
BAD_SECONDS ?= 30
RELEASES ?= bookworm trixie
VENV := .venv
BIN := $(VENV)/bin

# ASYNC102, 104: what is awaited there is shielded, with a deadline, inside (Cell.close, Cell._kill, _abandon).
# ASYNC110: these wait for another process, which sets no Event.  ASYNC122: trio 0.27 or newer is needed.
# ASYNC124: handlers have one signature, whether or not they wait.  ASYNC103: tests' threads are not async code.
ASYNC_OFF := ASYNC102,ASYNC103,ASYNC104,ASYNC110,ASYNC122,ASYNC124

# An editable installation builds the QuickJS cell; its cache makes it compile only what has changed (docs/building.md).
PAGE_SOURCES := page_build/editor.py page_build/deno.json page_build/deno.lock
CELL_SOURCES := $(wildcard sandbox/engines/quickjs/jail/*.[ch] sandbox/engines/quickjs/jail/*.js) sandbox/cells/launch.c \
	sandbox/engines/jail/contract.js sandbox/engines/quickjs/host/filter.py $(wildcard cell_build/*.py) hatch_build.py

.PHONY: help check demo demo-http play test test-build test-deploy test-page test-sanitized placement lint bench bench-peers bench-where fuzz fuzz-guided fuzz-cell soak faults \
	docs clean

$(VENV)/.installed: pyproject.toml $(CELL_SOURCES) $(PAGE_SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[deno,http]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/promptlogctl exec --spawn examples/reverse.js --prompt "hello world"

# The two calls of the proof of concept.
demo-http: $(VENV)/.installed
	$(BIN)/python examples/http_demo.py

play: $(VENV)/.installed
	$(BIN)/promptlogctl play

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

# A minute or two: style, types, layers, and the tests that start no daemon.
check: lint
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 tests/protocol tests/engines tests/wire/test_wire.py tests/test_*.py

test: $(VENV)/.dev
	failed=0; \
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not alone" || failed=1; \
	$(BIN)/python -m pytest -m alone || failed=1; \
	exit $$failed

test-build: $(VENV)/.dev
	$(BIN)/python -m pytest tests/build/real_builds.py

test-deploy: $(VENV)/.dev
	$(BIN)/python -m tests.deploy $(RELEASES)

test-page: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[page]'
	$(BIN)/python -m pytest tests/http/page.py tests/clients/node.py

placement: $(VENV)/.installed
	$(BIN)/python -m placement
	$(BIN)/python -m cell_build

test-sanitized: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/cell/sanitized.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m flake8_async --enable=ASYNC1,ASYNC2 --disable=$(ASYNC_OFF) \
		--startable-in-context-manager=_stop_on_signal \
		$$(find promptlogd promptlogctl sandbox tests -name '*.py')
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python bench/run_bench.py --rounds $(ROUNDS) --bad-client-seconds $(BAD_SECONDS)

bench-peers: $(VENV)/.installed
	$(BIN)/python bench/run_peers.py --rounds $(ROUNDS)

bench-where: $(VENV)/.installed
	$(BIN)/python bench/where.py

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz.fuzz --bytes $(BYTES)

fuzz-guided: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]'
	$(BIN)/python -m tests.fuzz.guided -runs=$(RUNS)

fuzz-cell: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz.cell -runs=$(RUNS)

soak: $(VENV)/.installed
	$(BIN)/python -m tests.soak.soak --seconds $(SECONDS)

faults: $(VENV)/.installed
	$(BIN)/python -m tests.soak.faults --kills $(KILLS)

docs: $(VENV)/.installed
	$(BIN)/python -m promptlogd.wire.reference > docs/protocol.md
	$(BIN)/python -m promptlogd.config_reference > docs/config.md
	$(BIN)/python -m promptlogd.wire.vectors > docs/vectors.json
	$(BIN)/python -m promptlogctl.http.openapi > promptlogctl/http/openapi.json

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
