"""The cgroup as second holder of memory and processes: real ones where this host lets us make them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from promptlogd.config import Config
from promptlogd.plans import held_by, quickjs_plan
from sandbox import cgroup
from sandbox.cells import quickjs as cells
from sandbox.cells.job import Job, Plan, Trial
from sandbox.cgroup import Cgroup
from sandbox.limits import MIB, Limits
from sandbox.outcome import Crashed, Ok
from sandbox.root import Root


@pytest.fixture
def group() -> Iterator[Cgroup | None]:
    """A parent of this test's own, or None where none can be had."""
    made = cgroup.make(f"promptlog-test-{os.getpid()}", 600 * MIB)
    yield made
    if made is not None:
        made.remove()
        assert not any(folder.exists() for folder in made.folders)


def _in_it(plan: Plan, group: Cgroup) -> Plan:
    return quickjs_plan(Config(), Root(path=plan.folder, loader=""), group)


async def _run(plan: Plan, source: str, limits: Limits) -> Trial:
    cell = await cells.start(plan)
    trial = Trial()
    try:
        await cell.run(Job(kind="source", code=source.encode(), limits=limits), trial)
    finally:
        await cell.close()
    return trial


async def test_a_jail_is_in_a_cgroup_of_its_own(plan: Plan, group: Cgroup | None) -> None:
    """The jail's processes are below the parent, under its limits, and the cgroup goes when the jail goes."""
    if group is None:
        # Told, and not passed over: such a host has the first holders alone.
        assert held_by(Config(), None)["memory"] == "RLIMIT_AS on the process"
        return
    cell = await cells.start(_in_it(plan, group))
    try:
        for folder in group.folders:
            (jail,) = folder.glob("NSJAIL.*")
            assert len((jail / "cgroup.procs").read_text().split()) == 2  # zygote and child
            limit = jail / ("memory.limit_in_bytes" if "memory" in folder.parts else "pids.max")
            assert int(limit.read_text()) in (600 * MIB, 4)
    finally:
        await cell.close()
    with trio.fail_after(2):
        while any(list(folder.glob("NSJAIL.*")) for folder in group.folders):
            group.sweep()
            await trio.sleep(0.01)
    held = held_by(Config(), group)
    assert "cgroup" in held["memory"] + held["processes"]


async def test_the_cgroup_holds_where_the_first_holder_does_not(plan: Plan, group: Cgroup | None) -> None:
    """With RLIMIT_AS far above it, the cgroup ends a memory bomb; the run is told as crashed by the kernel's kill."""
    if group is None or not group.memory_bytes:
        assert "cgroup" not in held_by(Config(), None)["memory"]
        return
    arguments = [str(64 * MIB) if argument == str(600 * MIB) else argument for argument in group.arguments]
    tight = _in_it(plan, msgspec.structs.replace(group, arguments=arguments))
    source = "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))"
    trial = await _run(tight, source, Limits(memory_bytes=500 * MIB, cpu_ms=5000, wall_ms=10_000))
    assert isinstance(trial.outcome, Crashed), trial.outcome
    assert trial.outcome.signal == "SIGKILL"
    trial = await _run(tight, "return 1", Limits())
    assert isinstance(trial.outcome, Ok)


def _tree(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_a_delegated_version_2_cgroup_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon goes to a leaf, the controllers are handed down, and nsjail is told the parent."""
    own = tmp_path / "system.slice/promptlogd.service"
    _tree(own, {"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": ""})
    monkeypatch.setattr(cgroup, "_own_cgroups", lambda: {"": "/system.slice/promptlogd.service"})
    made = cgroup.make("promptlog-x", 600 * MIB, mounts=tmp_path)
    assert made is not None
    assert (own / "promptlog-daemon/cgroup.procs").read_text() == str(os.getpid())
    for folder in (own, own / "promptlog-x"):
        assert (folder / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert made.arguments[:3] == ["--use_cgroupv2", "--cgroupv2_mount", str(own / "promptlog-x")]


@pytest.mark.parametrize("controllers", ["cpu pids", "", None])
def test_a_version_2_cgroup_without_the_controllers_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controllers: str | None
) -> None:
    """What was not delegated is not touched."""
    _tree(tmp_path, {"cgroup.subtree_control": ""} if controllers is None else {"cgroup.controllers": controllers})
    monkeypatch.setattr(cgroup, "_own_cgroups", lambda: {"": "/"})
    assert cgroup.make("promptlog-x", 600 * MIB, mounts=tmp_path) is None
    assert not (tmp_path / "promptlog-daemon").exists()
