"""Fixtures shared by all tests: a daemon, cells, and the check that tests leave nothing behind."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from trio.testing import MockClock

from promptlogctl.cli.spawn import private_daemon
from promptlogctl.client import Client
from sandbox.cells.plan import Plan
from tests.daemons import cgroups
from tests.hosts import host

# No deadline for examples: their speed depends on the machine, not on the code under test.
settings.register_profile("promptlog", deadline=None)
settings.load_profile("promptlog")


# Orphans become children of this process instead of init's, so that the check at the end finds them.
_PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _processes() -> dict[int, tuple[int, bytes]]:
    """Return each live process on this host, with its parent and its command."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                if state != "Z":
                    found[int(folder.name)] = (int(parent), (folder / "cmdline").read_bytes())
            except OSError:
                continue
    return found


def _split(processes: dict[int, tuple[int, bytes]]) -> tuple[list[bytes], list[bytes]]:
    """Return the commands of jails and daemons: descendants of this process, and others."""
    ours: list[bytes] = []
    others: list[bytes] = []
    for pid, (_, command) in processes.items():
        names = (b"promptlogd", b"promptlogctl\0http", b"promptlogctl\0metrics", b"zygote.pyc", b"/cells/watchdog.py")
        if b"nsjail" in command.split(b"\0")[0] or any(name in command for name in names):
            at = pid
            while at not in (os.getpid(), 0):
                at = processes.get(at, (0, b""))[0]
            (ours if at else others).append(command)
    return ours, others


def _folders() -> set[Path]:
    folders = {*Path("/run").glob("promptlog-*"), *Path(tempfile.gettempdir()).glob("promptlog-*")}
    return folders | cgroups("promptlog-")


_FOLDERS = pytest.StashKey[set[Path]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Record which folders exist before the tests."""
    session.config.stash[_FOLDERS] = _folders()


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Fail the session if a process, a jail's root, a temporary folder or a cgroup outlives it.

    If tests run in parallel, the controlling process checks this after its workers have ended.
    """
    yield
    if hasattr(session.config, "workerinput"):
        return
    ours, others = _split(_processes())
    before: set[Path] = session.config.stash[_FOLDERS]
    folders = set() if others else _folders() - before  # daemons of others create folders too
    left = [*map(repr, ours), *map(str, folders)]
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nthe tests left behind:", *left, sep="\n  ")


@pytest.fixture(scope="session")
def socket_path() -> Iterator[Path]:
    """The socket of a daemon that all tests of the session share."""
    with private_daemon(None) as path:
        yield path


@pytest.fixture
def client(socket_path: Path) -> Iterator[Client]:
    """A client of the shared daemon."""
    with Client(socket_path) as client:
        yield client


@pytest.fixture(scope="session")
def plan() -> Iterator[Plan]:
    """A plan that starts a QuickJS cell, with a separate root folder for its jail."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    try:
        yield trio.run(host("quickjs", folder / "root").plan, None)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Trio's mock clock, which jumps to the next deadline: time does not depend on the machine."""
    return autojump_clock
