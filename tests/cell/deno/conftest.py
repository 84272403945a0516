"""Fixtures for Deno cells: the root folder of their jails, and the plans that start cells."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from sandbox.cells.plan import Plan
from sandbox.engines.deno.host.root import build_root, deno_executable
from sandbox.jail import cgroup
from sandbox.jail.root import Root
from sandbox.limits import MIB
from tests.cell.deno.plans import deno_plan


@pytest.fixture(scope="module")
def made() -> Iterator[Root]:
    """The root folder of Deno's jails."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    try:
        yield build_root(folder / "root", deno_executable())
    finally:
        rmtree(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests without JIT as `long`, except test_cell.py: it and the hostile programs cover what differs."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        if parameters is not None and parameters.params.get("plan") == "jitless" and item.path.name != "test_cell.py":
            item.add_marker("long")


@pytest.fixture(params=["jit", "jitless"])
def plan(made: Root, request: pytest.FixtureRequest) -> Iterator[Plan]:
    """A plan that starts a Deno cell: with JIT in a cgroup, and without both."""
    if request.param == "jitless":
        yield deno_plan(made)
        return
    group = cgroup.make(f"promptlog-test-{os.getpid()}", 192 * MIB)
    assert group is not None, "no cgroup can be made here: Deno's JIT can't be tested (be root, or delegate one)"
    assert group.memory_bytes, "no memory cgroup can be made here: Deno's JIT can't be tested"
    try:
        yield deno_plan(made, group)
    finally:
        group.remove()
