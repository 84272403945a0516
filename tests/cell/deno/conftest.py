"""Fixtures for Deno cells: the root of their jails, and how to start one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from promptlogd.config import Config
from promptlogd.plans import deno_plan
from sandbox import cgroup, root
from sandbox.cells.job import Plan
from sandbox.limits import MIB
from sandbox.root import Root


@pytest.fixture(scope="module")
def made() -> Iterator[Root]:
    """The root of Deno's jails."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    try:
        yield root.build_deno_root(folder / "root", root.deno_executable())
    finally:
        rmtree(folder)


@pytest.fixture(params=["jit", "jitless"])
def plan(made: Root, request: pytest.FixtureRequest) -> Iterator[Plan]:
    """How to start a Deno cell: with JIT in a cgroup, and without either."""
    default = Config().limits.default.limits()
    if request.param == "jitless":
        yield deno_plan(made, default, None, jit=False)
        return
    group = cgroup.make(f"promptlog-test-{os.getpid()}", 192 * MIB)
    assert group is not None, "no cgroup can be made here: Deno's JIT can't be tested (be root, or delegate one)"
    assert group.memory_bytes, "no memory cgroup can be made here: Deno's JIT can't be tested"
    try:
        yield deno_plan(made, default, group, jit=True)
    finally:
        group.remove()
