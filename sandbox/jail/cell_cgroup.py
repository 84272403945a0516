"""The cgroups of one cell, below the daemon's parent cgroup: their limits, and the kernel's counters as evidence.

A cell runs many programs one after another. So the evidence of a run is the change of the counters since an earlier
reading, and not their values.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

LIMIT_FILES = {
    1: {"memory.limit_in_bytes": "{memory_bytes}", "memory.swappiness": "0", "pids.max": "64"},
    2: {"memory.max": "{memory_bytes}", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "64"},
}
"""Limits of a `Group`. The maximum number of tasks is for nsjail, and an engine with its threads."""

_REMOVE_TRIES = 40


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a cgroup and those below it, since the cgroup was created. They never go down."""

    oom: int = 0
    """Number of times that the cgroup's own memory limit was reached and nothing could be reclaimed."""
    oom_kills: int = 0
    """Number of processes that the out-of-memory killer has ended, for this limit or one above."""
    refused_tasks: int = 0
    """Number of times that the kernel refused to create a process or thread because of `pids.max`."""

    def is_out_of_memory_since(self, before: Counters) -> bool:
        """Whether the kernel has killed a process since then because of the cgroup's own limit.

        If the whole service or the host is out of memory, a kill increases only the second counter. It is no evidence
        about the program.
        """
        return self.oom > before.oom and self.oom_kills > before.oom_kills


NO_COUNTERS = Counters()


class JailGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The cgroup of one cell in which nsjail creates another one, NSJAIL.<pid>, with the limits of the jail.

    `folder`: on version 2, the cell's own cgroup. nsjail removes its cgroup when the jail ends, and the kernel keeps
    the counts in the cgroup above. On version 1, counts are not inherited, so `folder` is None.
    """

    folder: Path | None
    parents: list[Path]
    """The cgroups in which nsjail creates its own: one for each hierarchy."""
    leftovers: set[Path]
    """The daemon's set of cgroups to remove."""

    @property
    def arguments(self) -> list[str]:
        """Arguments for this nsjail, in addition to those for all."""
        return [] if self.folder is None else ["--cgroupv2_mount", str(self.folder)]

    def make(self) -> None:
        """Create the folder. Raises OSError."""
        if self.folder is None:
            return
        self.folder.mkdir()
        swap = self.folder / "memory.swap.max"  # it does not exist on kernels without swap
        if swap.exists():
            swap.write_text("0")
        (self.folder / "cgroup.subtree_control").write_text("+memory +pids")

    def counters(self) -> Counters:
        """Return the counters now."""
        if self.folder is None:
            return NO_COUNTERS
        refused = _read(self.folder / "pids.events", "max")
        if not refused:  # before Linux 6.12, only the cgroup of the process that forks counts
            refused = sum(_read(folder / "pids.events", "max") for folder in self.folder.glob("NSJAIL.*"))
        return msgspec.structs.replace(_memory_events(self.folder), refused_tasks=refused)

    async def remove(self, zygote: int | None) -> None:
        """Remove the cgroups after nsjail has ended. `zygote`: the first process of its jail.

        nsjail names its cgroup after that process, and removes the cgroup itself unless nsjail was killed.
        """
        jails = [parent / f"NSJAIL.{zygote}" for parent in self.parents] if zygote is not None else []
        await _remove_soon(jails if self.folder is None else [self.folder], self.leftovers)

    def discard(self) -> None:
        """Remove the cgroup as soon as it is empty. Use this if nsjail was not started, or may not have ended."""
        if self.folder is not None:
            self.leftovers.add(self.folder)
            tidy(self.leftovers)


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The cgroup of one cell, for all of its processes including nsjail: limits and counters of memory and threads."""

    version: int
    folders: list[Path]
    leftovers: set[Path]
    """The daemon's set of cgroups to remove."""

    def make(self, memory_bytes: int) -> None:
        """Create the folders and set the limits. Raises OSError."""
        for folder in self.folders:
            folder.mkdir()
            for name, value in LIMIT_FILES[self.version].items():
                file = folder / name
                if file.exists():
                    file.write_text(value.format(memory_bytes=memory_bytes))

    def process_files(self) -> list[Path]:
        """Return the files to which a process writes 0 to move itself into the cgroup."""
        return [folder / "cgroup.procs" for folder in self.folders]

    def holds(self, pid: int) -> bool:
        """Whether a process is in the cgroup, in all hierarchies."""
        try:
            return all(str(pid) in (folder / "cgroup.procs").read_text().split() for folder in self.folders)
        except OSError:
            return False

    def peak_bytes(self) -> int:
        """Return the peak memory since `forget_peak`; 0 if the kernel does not report it."""
        if self.version == 1:
            for folder in self.folders:
                with suppress(OSError, ValueError):
                    return int((folder / "memory.max_usage_in_bytes").read_text())
        return 0

    def forget_peak(self) -> None:
        """Reset the peak. Version 2 supports this only from Linux 6.12 on, for one descriptor, so VmHWM is used
        there."""
        for folder in self.folders:
            with suppress(OSError):
                if self.version == 1:
                    (folder / "memory.max_usage_in_bytes").write_text("0")

    def counters(self) -> Counters:
        """Return the counters now. Version 1 counts only kills, and not their reasons."""
        if self.version == 2:
            (folder,) = self.folders
            events = _memory_events(folder)
            return msgspec.structs.replace(events, refused_tasks=_read(folder / "pids.events", "max"))
        kills = max(_read(folder / "memory.oom_control", "oom_kill") for folder in self.folders)
        return Counters(oom=kills, oom_kills=kills)

    async def remove(self) -> None:
        """Remove the folders. All processes have been killed."""
        await _remove_soon(self.folders, self.leftovers)


async def _remove_soon(folders: list[Path], leftovers: set[Path]) -> None:
    """Remove cgroups. A killed process may take some ms to leave them. What remains is removed later."""
    leftovers.update(folders)
    for _ in range(_REMOVE_TRIES):
        tidy(leftovers)
        if leftovers.isdisjoint(folders):
            return
        await trio.sleep(0.005)


def tidy(leftovers: set[Path]) -> None:
    """Remove these cgroups. Those that the kernel has not released yet stay in the set."""
    for folder in list(leftovers):
        with suppress(OSError):
            remove_tree(folder)
            leftovers.discard(folder)


def remove_tree(folder: Path) -> None:
    """Remove a cgroup and its descendants. Raises OSError if one of them has a process."""
    for parent, names, _ in os.walk(folder, topdown=False):
        for name in names:
            _remove(Path(parent, name))
    _remove(folder)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        folder.rmdir()


def _memory_events(folder: Path) -> Counters:
    """Return the counters of `memory.events`, which include those of cgroups below, even removed ones."""
    found: dict[str, int] = {}
    with suppress(OSError, ValueError):
        found = {key: int(value) for key, value in map(str.split, (folder / "memory.events").read_text().splitlines())}
    return Counters(oom=found.get("oom", 0), oom_kills=found.get("oom_kill", 0))


def _read(file: Path, key: str) -> int:
    """Return a value of a flat keyed file (cgroups(7)); 0 if there is none."""
    with suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return 0
