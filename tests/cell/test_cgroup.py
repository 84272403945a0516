"""The cgroup as second holder of memory and processes: real ones where this host lets us make them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from sandbox.cells.job import Result
from sandbox.cells.plan import Plan
from sandbox.jail import cgroup
from sandbox.jail.cgroup import Cgroup
from sandbox.limits import MIB
from sandbox.outcome import Crashed, Ok
from tests.cell.cells import a_cell, run_on
from tests.daemon.processes import children
from tests.hosts import host, in_cgroup


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A parent of this test's own, with a memory controller."""
    made = cgroup.make(f"promptlog-test-{os.getpid()}", 600 * MIB)
    assert made is not None, "no cgroup can be made here (be root, or delegate one)"
    yield made
    made.remove()
    assert not any(folder.exists() for folder in made.folders)


async def _run(plan: Plan, source: str, **limits: Any) -> Result:
    async with a_cell(plan) as cell:
        return await run_on(cell, source, **limits)


_LIMITS = {"memory.limit_in_bytes": 600 * MIB, "memory.max": 600 * MIB, "pids.max": 4}
"""Files of either version."""


async def test_a_jail_is_in_a_cgroup_of_its_own(plan: Plan, group: Cgroup) -> None:
    """The jail's processes are below the parent, under its limits, and the cgroup goes when the jail goes."""
    async with a_cell(in_cgroup(plan, group)) as cell:
        limits: dict[str, int] = {}
        for folder in group.folders:
            (jail,) = folder.glob("NSJAIL.*")
            (zygote,) = children(cell.process.pid)
            assert set(map(int, (jail / "cgroup.procs").read_text().split())) == {zygote, *children(zygote)}
            limits |= {name: int((jail / name).read_text()) for name in _LIMITS if (jail / name).exists()}
        assert set(limits.values()) == {600 * MIB, 4}
        assert limits.items() <= _LIMITS.items()
    with trio.fail_after(2):
        while any(list(folder.glob("NSJAIL.*")) for folder in group.folders):
            await trio.sleep(0.01)


def test_what_holds_is_told(group: Cgroup, tmp_path: Path) -> None:
    """The words of `stats` name a cgroup as holder of memory and of processes where there is one, and only there."""
    for parent, there in ((group, True), (None, False)):
        held = host("quickjs", tmp_path, cgroup=parent).held_by()
        assert ("a memory cgroup of 600 MiB" in held["memory"]) is there
        assert ("a pids cgroup" in held["processes"]) is there
        assert held["memory"].startswith("RLIMIT_AS on the process")


async def test_the_cgroup_holds_where_the_first_holder_does_not(plan: Plan, group: Cgroup) -> None:
    """With RLIMIT_AS far above it, the cgroup ends a memory bomb; the run is told as crashed by the kernel's kill."""
    assert group.memory_bytes, "no memory cgroup can be made here (be root, or delegate one)"
    arguments = [str(64 * MIB) if argument == str(600 * MIB) else argument for argument in group.arguments]
    assert arguments != group.arguments
    tight = in_cgroup(plan, msgspec.structs.replace(group, arguments=arguments))
    source = "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))"
    result = await _run(tight, source, memory_bytes=500 * MIB, cpu_ms=5000, wall_ms=10_000)
    assert isinstance(result.outcome, Crashed), result.outcome
    assert result.outcome.signal == "SIGKILL"
    result = await _run(tight, "return 1")
    assert isinstance(result.outcome, Ok)


def _tree(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _own_folder(mount: Path) -> Path:
    """Return where this process's cgroup of version 2 is below a mount, by the kernel's account."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    paths = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    return mount / (paths[0] if paths else "/").strip("/")


def test_a_delegated_version_2_cgroup_is_used(tmp_path: Path) -> None:
    """The daemon goes to a leaf, the controllers are handed down, and nsjail is told the parent."""
    own = _own_folder(tmp_path)
    _tree(own, {"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": ""})
    made = cgroup.make("promptlog-x", 600 * MIB, mounts=tmp_path)
    assert made is not None
    assert (own / "supervisor/cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert (own / "promptlog-x/cgroup.subtree_control").read_text() == "+memory +pids"
    assert made.arguments[:3] == ["--use_cgroupv2", "--cgroupv2_mount", str(own / "promptlog-x")]


@pytest.mark.parametrize("controllers", ["cpu pids", "cpu memory", "", None])
def test_a_version_2_cgroup_without_the_controllers_is_left_alone(tmp_path: Path, controllers: str | None) -> None:
    """What was not delegated is not touched."""
    files = {"cgroup.subtree_control": ""}
    _tree(_own_folder(tmp_path), files if controllers is None else {**files, "cgroup.controllers": controllers})
    before = sorted(tmp_path.rglob("*"))
    assert cgroup.make("promptlog-x", 600 * MIB, mounts=tmp_path) is None
    assert sorted(tmp_path.rglob("*")) == before
