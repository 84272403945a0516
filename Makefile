# make demo           Install promptlog and run an example.
# make demo-http      Do the same over HTTP.
# make play           Open the web page in a browser.
# make check          Lint, check types, run the tests that need no daemon.
# make test           Run all tests.
# make test-page      Test the page in Chromium (Debian: chromium), and clients on Node.
# make test-build     Build complete wheels, also with zig and for arm64. Takes minutes, and needs a package index.
# make test-sanitized Run the hostile programs on a cell with ASan and UBSan. Takes minutes.
# make placement      Generate placement.h after a change to the engine or to a script that the cell evaluates (x86-64).
# make docs           Generate documents from code.
# make bench ROUNDS=3                  Measure promptlog alone, and beside one bad client: 25 minutes for each round
#                                      (BAD_SECONDS=0 omits this part).
# make bench-peers ROUNDS=5            Measure other systems, which come from npm and PyPI.
# make soak SECONDS=600                Mixed load and kills.
# make faults KILLS=300                Kills of random processes, including the daemon.
# make fuzz BYTES=20000000             Send damaged frames to a daemon.
# make fuzz-guided RUNS=5000000        Fuzz the parsers, guided by coverage.
# make fuzz-cell RUNS=10000000         Fuzz the input of the QuickJS cell, guided by coverage. Needs clang.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SECONDS ?= 600
KILLS ?= 300
BYTES ?= 20000000
RUNS ?= 5000000
ROUNDS ?= 1
BAD_SECONDS ?= 30
VENV := .venv
BIN := $(VENV)/bin

# ASYNC102, 104: the awaited functions shield themselves, with a deadline (Cell.close, Cell._kill, _abandon).
# ASYNC110: these loops wait for another process, which sets no Event.  ASYNC122: promptlog needs trio 0.27 or newer.
# ASYNC124: handlers have one signature, whether or not they wait.  ASYNC103: tests' threads are not async code.
ASYNC_OFF := ASYNC102,ASYNC103,ASYNC104,ASYNC110,ASYNC122,ASYNC124

# An editable installation builds the QuickJS cell. Its cache makes it compile only changed files (docs/building.md).
PAGE_SOURCES := page_build/editor.py page_build/deno.json page_build/deno.lock
CELL_SOURCES := $(wildcard sandbox/engines/quickjs/jail/*.[ch] sandbox/engines/quickjs/jail/*.js) sandbox/cells/launch.c \
	sandbox/engines/jail/contract.js sandbox/engines/quickjs/host/filter.py $(wildcard cell_build/*.py) hatch_build.py

.PHONY: help check demo demo-http play test test-build test-page test-sanitized placement lint bench bench-peers bench-where fuzz fuzz-guided fuzz-cell soak faults \
	docs clean

$(VENV)/.installed: pyproject.toml $(CELL_SOURCES) $(PAGE_SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[deno,http,metrics]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/promptlogctl exec --spawn examples/reverse.js --prompt "hello world"

# Submit and run a program over HTTP.
demo-http: $(VENV)/.installed
	$(BIN)/python examples/http_demo.py

play: $(VENV)/.installed
	$(BIN)/promptlogctl play

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

# Takes a minute or two: style, types, layers, and the tests that start no daemon.
check: lint
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 tests/protocol tests/engines tests/wire/test_wire.py tests/test_*.py

test: $(VENV)/.dev
	failed=0; \
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not alone" || failed=1; \
	$(BIN)/python -m pytest -m alone || failed=1; \
	exit $$failed

test-build: $(VENV)/.dev
	$(BIN)/python -m pytest tests/build/real_builds.py

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
