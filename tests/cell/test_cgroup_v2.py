"""Cgroups of version 2 on a real mount, with the controllers that are there. tests/deploy has those of memory and pids.

Hosts of version 1 have such a mount as well, for systemd. A controller that version 1 does not use, as hugetlb often,
shows the kernel's rules.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from sandbox.claim import claim_new
from sandbox.jail.cell_cgroup import Counters, Group, JailGroup, remove_tree, tidy
from sandbox.jail.cgroup import Cgroup

_REPOSITORY = Path(__file__).parents[2]
_ENTER = """\
import sys
from pathlib import Path
from sandbox.jail.delegation import enter
base, own, controllers = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
(own / "cgroup.procs").write_text("0")

def show(*more):
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    (path,) = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    children = sorted(each.name for each in base.iterdir() if each.is_dir())
    print(path.rpartition(base.name)[2], children, (base / "cgroup.subtree_control").read_text().split(), *more)

try:
    made = enter(own, needed=controllers, wanted=controllers)
except OSError as error:
    show(error.strerror)
else:
    show(made is not None and made.moved)
    if made is not None:
        made.leave()
        show()
"""


@pytest.fixture
def mount() -> Path:
    """Where this host has cgroups of version 2."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(",") and os.access(f"{folder}/cgroup.procs", os.W_OK):
            return Path(folder)
    pytest.skip("there is no mount of cgroup version 2 that this user may write to")


@pytest.fixture
def base(mount: Path) -> Iterator[Path]:
    """A cgroup of this test's own, which has the controllers that are there."""
    folder = mount / f"promptlog-test-v2-{os.getpid()}"
    folder.mkdir()
    yield folder
    remove_tree(folder)


def _controllers(base: Path) -> list[str]:
    return (base / "cgroup.controllers").read_text().split()[:1]


def _enter(base: Path, own: Path, controllers: list[str]) -> list[str]:
    """Return what a process that enters and leaves sees: its cgroup, children and controllers of `base`."""
    command = [sys.executable, "-c", _ENTER, str(base), str(own), *controllers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=_REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _process_in(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["sleep", "60"])
    (folder / "cgroup.procs").write_text(str(process.pid))
    return process


def test_a_process_goes_to_a_leaf_and_comes_back(base: Path) -> None:
    """The daemon moves to a leaf and enables controllers above it, and later restores the cgroup."""
    controllers = _controllers(base)
    assert _enter(base, base, controllers) == [
        f"/supervisor ['supervisor'] {controllers} True",
        " [] []",
    ]


def test_systemd_may_have_made_the_leaf(base: Path) -> None:
    """A process that starts in the leaf stays there (DelegateSubgroup=), and the controllers are disabled again."""
    (base / "supervisor").mkdir()
    controllers = _controllers(base)
    assert _enter(base, base / "supervisor", controllers) == [
        f"/supervisor ['supervisor'] {controllers} False",
        "/supervisor ['supervisor'] []",
    ]


def test_a_cgroup_with_other_processes_is_left_alone(base: Path) -> None:
    """Where another process is, controllers can't be enabled: the process is back where it was, and no leaf is left."""
    controllers = _controllers(base)
    if not controllers:
        pytest.skip("version 1 has all controllers")
    other = _process_in(base)
    try:
        assert _enter(base, base, controllers) == [" [] [] Device or resource busy"]
    finally:
        other.kill()
        other.wait()


def test_a_cgroup_without_the_controllers_is_left_alone(base: Path) -> None:
    """A cgroup that was not delegated stays unchanged."""
    assert _enter(base, base, ["no-such-controller"]) == [" [] [] False"]


async def test_what_nsjail_leaves_is_removed(base: Path) -> None:
    """A jail's cgroup goes with those in it, at the latest when the kernel has released the last process."""
    leftovers: set[Path] = set()
    jail = JailGroup(folder=base / "jail-1", parents=[base], leftovers=leftovers)
    left = base / "jail-1/NSJAIL.7"
    left.mkdir(parents=True)
    await jail.remove(7)
    assert not (base / "jail-1").exists()
    left.mkdir(parents=True)
    process = _process_in(left)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jail.remove, 7)
            await trio.testing.wait_all_tasks_blocked()
            assert left.exists()
            process.kill()
            process.wait()
        assert not (base / "jail-1").exists()
        assert not leftovers
    finally:
        process.kill()
        process.wait()


async def test_what_can_not_be_removed_is_tried_again(base: Path) -> None:
    """A cgroup whose process does not end in time is removed later."""
    leftovers: set[Path] = set()
    left = base / "jail-1/NSJAIL.7"
    left.mkdir(parents=True)
    process = _process_in(left)
    try:
        with trio.CancelScope() as scope:
            scope.cancel()
            await JailGroup(folder=base / "jail-1", parents=[base], leftovers=leftovers).remove(7)
        assert leftovers == {base / "jail-1"}
    finally:
        process.kill()
        process.wait()
    tidy(leftovers)
    assert not leftovers
    assert not (base / "jail-1").exists()


def test_the_parent_is_removed_with_every_process(base: Path) -> None:
    """At the end of the daemon, a process that is still in a jail's cgroup is killed, and nothing is left."""
    parent = base / "promptlog-x"
    claim = claim_new(parent, 0o700)
    (parent / "jail-1/NSJAIL.7").mkdir(parents=True)
    process = _process_in(parent / "jail-1/NSJAIL.7")
    try:
        Cgroup(version=2, folders=[parent], memory_bytes=1, arguments=[], claims=[claim]).remove()
        assert process.wait(5) == -9
        assert not parent.exists()
    finally:
        process.kill()
        process.wait()


def _files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


_MEMORY = "low 0\nhigh 0\nmax 93\noom {oom}\noom_kill {kills}\noom_group_kill 0\n"
"""Of memory.events, on Linux 6.12."""


def test_counters_are_read(tmp_path: Path) -> None:
    """The kernel's files as before and after Linux 6.12, in which the cgroup above started to count tasks."""
    memory = _MEMORY.format(oom=2, kills=1)
    for number, of_jail, of_nsjail in ((1, "max 5\nmax_local 0\n", "max 5\n"), (2, "max 0\n", "max 5\n")):
        folder = tmp_path / str(number)
        _files(folder, {"memory.events": memory, "pids.events": of_jail, "NSJAIL.9/pids.events": of_nsjail})
        jail = JailGroup(folder=folder, parents=[tmp_path], leftovers=set())
        assert jail.counters() == Counters(oom=2, oom_kills=1, refused_tasks=5)
    group = Group(version=2, folders=[tmp_path / "1"], leftovers=set())
    assert group.counters() == Counters(oom=2, oom_kills=1, refused_tasks=5)
    for text in ("", "oom", "oom x\noom_kill 1\n", "oom 1 2\n"):
        _files(tmp_path / "1", {"memory.events": text, "pids.events": text})
        assert group.counters() == Counters()
    assert JailGroup(folder=tmp_path / "none", parents=[], leftovers=set()).counters() == Counters()
    assert JailGroup(folder=None, parents=[tmp_path], leftovers=set()).counters() == Counters()


@pytest.mark.parametrize(
    ("oom", "kills", "is_out"),
    [
        (3, 4, False),  # as before
        (4, 5, True),
        (3, 5, False),  # the kernel killed a process for want of memory elsewhere
        (4, 4, False),  # an allocation failed, and nobody was killed
    ],
)
def test_out_of_memory_is_a_change_of_both_counters(oom: int, kills: int, is_out: bool) -> None:
    """A kill counts for a run only if it came after the last reading, and from the cell's own limit."""
    assert Counters(oom=oom, oom_kills=kills).is_out_of_memory_since(Counters(oom=3, oom_kills=4)) is is_out
