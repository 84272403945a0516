"""The cgroup as the second limit of memory and processes; real cgroups where the host permits them."""

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
from sandbox.outcome import Crashed, MemoryLimit, Ok
from tests.cell.cells import a_cell, run_on
from tests.daemon.processes import children
from tests.hosts import host, in_cgroup


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A parent cgroup for this test, with a memory controller."""
    made = cgroup.make(f"promptlog-test-{os.getpid()}", 600 * MIB)
    assert made is not None, "no cgroup can be made here (be root, or delegate one)"
    yield made
    made.remove()
    assert not any(folder.exists() for folder in made.folders)


async def _run(plan: Plan, source: str, **limits: Any) -> Result:
    async with a_cell(plan) as cell:
        return await run_on(cell, source, **limits)


_LIMITS = {"memory.limit_in_bytes": 600 * MIB, "memory.max": 600 * MIB, "pids.max": 4}
"""Files of cgroup v1 and v2."""


async def test_a_jail_has_its_own_cgroup(plan: Plan, group: Cgroup) -> None:
    """The jail's processes are in a cgroup below the parent, under its limits; the cgroup is removed with the jail."""
    async with a_cell(in_cgroup(plan, group)) as cell:
        limits: dict[str, int] = {}
        for folder in group.folders:
            (jail,) = folder.rglob("NSJAIL.*")
            (zygote,) = children(cell.process.pid)
            assert set(map(int, (jail / "cgroup.procs").read_text().split())) == {zygote, *children(zygote)}
            limits |= {name: int((jail / name).read_text()) for name in _LIMITS if (jail / name).exists()}
        assert set(limits.values()) == {600 * MIB, 4}
        assert limits.items() <= _LIMITS.items()
    with trio.fail_after(2):
        while any(list(folder.rglob("NSJAIL.*")) for folder in group.folders):
            await trio.sleep(0.01)


def test_stats_name_the_cgroup(group: Cgroup, tmp_path: Path) -> None:
    """`held_by` of `stats` names a cgroup for memory and processes exactly if there is one."""
    for parent, there in ((group, True), (None, False)):
        held = host("quickjs", tmp_path, cgroup=parent).held_by()
        assert ("a memory cgroup of 600 MiB" in held["memory"]) is there
        assert ("a pids cgroup" in held["processes"]) is there
        assert held["memory"].startswith("RLIMIT_AS on the process")


async def test_the_cgroup_limits_memory_if_rlimit_as_does_not(plan: Plan, group: Cgroup) -> None:
    """With a much higher RLIMIT_AS, the cgroup ends a memory bomb. On version 1, the run is reported as crashed."""
    assert group.memory_bytes, "no memory cgroup can be made here (be root, or delegate one)"
    arguments = [str(64 * MIB) if argument == str(600 * MIB) else argument for argument in group.arguments]
    assert arguments != group.arguments
    tight = in_cgroup(plan, msgspec.structs.replace(group, arguments=arguments))
    source = "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))"
    result = await _run(tight, source, memory_bytes=500 * MIB, cpu_ms=5000, wall_ms=10_000)
    assert isinstance(result.outcome, Crashed if group.version == 1 else MemoryLimit), result.outcome
    assert isinstance(result.outcome, MemoryLimit) or result.outcome.signal == "SIGKILL"
    result = await _run(tight, "return 1")
    assert isinstance(result.outcome, Ok)


def _tree(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _own_folder(mount: Path) -> Path:
    """Return the folder of this process's cgroup v2 below a mount point, from /proc/self/cgroup."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    paths = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    return mount / (paths[0] if paths else "/").strip("/")


def test_a_delegated_version_2_cgroup_is_used(tmp_path: Path) -> None:
    """The daemon moves to a leaf, enables the controllers for children, and gives each nsjail its own parent."""
    own = _own_folder(tmp_path)
    _tree(own, {"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": ""})
    made = cgroup.make("promptlog-x", 600 * MIB, mounts=tmp_path)
    assert made is not None
    assert (own / "supervisor/cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert (own / "promptlog-x/cgroup.subtree_control").read_text() == "+memory +pids"
    assert made.describe() == f"version 2: memory and pids, in {own / 'promptlog-x'}"
    jails = [made.jail(), made.jail()]
    assert made.arguments[0] == "--use_cgroupv2"
    folders = [Path(jail.arguments[1]) for jail in jails]
    assert folders[0] != folders[1]
    for jail, folder in zip(jails, folders, strict=True):
        assert jail.arguments == ["--cgroupv2_mount", str(folder)]
        assert folder.parent == own / "promptlog-x"
        assert (folder / "cgroup.subtree_control").read_text() == "+memory +pids"


@pytest.mark.parametrize("controllers", ["cpu pids", "cpu memory", "", None])
def test_a_version_2_cgroup_without_the_controllers_is_not_changed(tmp_path: Path, controllers: str | None) -> None:
    """Without delegated controllers, `make` changes nothing."""
    files = {"cgroup.subtree_control": ""}
    _tree(_own_folder(tmp_path), files if controllers is None else {**files, "cgroup.controllers": controllers})
    before = sorted(tmp_path.rglob("*"))
    assert cgroup.make("promptlog-x", 600 * MIB, mounts=tmp_path) is None
    assert sorted(tmp_path.rglob("*")) == before
