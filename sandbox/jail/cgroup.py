"""A parent cgroup for all jails: a second limit on memory and processes, in addition to RLIMIT_AS and seccomp.

A cgroup counts the memory of a whole jail, including the kernel's memory for it. Version 1 needs writable `memory` and
`pids` hierarchies (usually as root). Version 2 needs a delegated cgroup (systemd's Delegate=yes). This module first
moves its processes to a leaf, as the kernel requires (cgroups(7), "no internal processes"). If neither is available,
there is no cgroup, and `stats` says so.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from sandbox.claim import Claim, claim_new, sweep_one

_log = logging.getLogger(__name__)
_PIDS = 4
"""The zygote and its child, twice."""

_numbers = itertools.count()
_LIMIT_FILES = {
    1: {"memory.limit_in_bytes": "{memory_bytes}", "memory.swappiness": "0", "pids.max": "64"},
    2: {"memory.max": "{memory_bytes}", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "64"},
}
"""Maximum number of tasks of one cell: nsjail, and an engine with its threads."""

PREFIX = "promptlog-"
"""Prefix of the names of parent cgroups."""

_PARENT = re.compile(rf"{PREFIX}[0-9a-f]{{16}}")
"""Names of daemons' parent cgroups. Tests create others."""

_MOST_LOOKED_AT = 5000
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT}
"""Errors that mean that no cgroup was delegated."""

_LEAF = "supervisor"
"""The cgroup of the daemon itself: the name that systemd's documents give to such a cgroup."""

_REMOVE_S = 1.0
_REMOVE_TRIES = 40


class Cgroup(msgspec.Struct, frozen=True, kw_only=True):
    """An existing parent cgroup, claimed by this process. `folders`: one for each hierarchy."""

    version: int
    folders: list[Path]
    memory_bytes: int
    arguments: list[str]
    """Arguments for nsjail."""
    claims: list[Claim]
    leftovers: set[Path] = set()
    """Cgroups of killed jails, which the kernel may take some ms to release."""

    def forget_jail(self, zygote: int | None) -> None:
        """Remove the cgroups of a jail whose nsjail has ended, now or at the next call. `zygote`: its first process.

        nsjail names the cgroups after that process, and removes them itself unless it was killed.
        """
        if zygote is not None:
            self.leftovers.update(folder / f"NSJAIL.{zygote}" for folder in self.folders)
        self._tidy()

    def group(self, memory_bytes: int) -> Group:
        """Create a cgroup for one cell, without nsjail, with this memory limit. Raises OSError."""
        self._tidy()
        name = f"cell-{next(_numbers)}"
        group = Group(version=self.version, folders=[folder / name for folder in self.folders], parent=self)
        try:
            group.make(memory_bytes)
        except BaseException:
            self.leftovers.update(group.folders)
            self._tidy()
            raise
        return group

    def _tidy(self) -> None:
        for folder in list(self.leftovers):
            with suppress(OSError):
                _remove(folder)
                self.leftovers.discard(folder)

    def remove(self) -> None:
        """Remove the parent. Its jails must have ended. Waits up to a second for the kernel to release them."""
        deadline = time.monotonic() + _REMOVE_S
        for folder, claim in zip(self.folders, self.claims, strict=True):
            while folder.exists():
                try:
                    remove_tree(folder)
                except OSError as error:
                    if time.monotonic() > deadline:
                        _log.warning("can't remove the cgroup %s: %s", folder, error.strerror)
                        break
                    time.sleep(0.01)
            claim.release()


def remove_tree(folder: Path) -> None:
    """Remove a cgroup and its descendants. Raises OSError if one of them has a process."""
    for parent, names, _ in os.walk(folder, topdown=False):
        for name in names:
            _remove(Path(parent, name))
    _remove(folder)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        folder.rmdir()


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One cell's cgroup: limits its memory and threads, and reports its peak memory and its out-of-memory kills."""

    version: int
    folders: list[Path]
    parent: Cgroup

    def make(self, memory_bytes: int) -> None:
        """Create the folders and set the limits. Raises OSError."""
        for folder in self.folders:
            folder.mkdir()
            for name, value in _LIMIT_FILES[self.version].items():
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
        return self._number(("memory.max_usage_in_bytes", "memory.peak"), "") if self.version == 1 else 0

    def forget_peak(self) -> None:
        """Reset the peak. Version 2 supports this only from Linux 6.12 on, for one descriptor, so VmHWM is used
        there."""
        for folder in self.folders:
            with suppress(OSError):
                if self.version == 1:
                    (folder / "memory.max_usage_in_bytes").write_text("0")

    def oom_kills(self) -> int:
        """Return the number of out-of-memory kills in the cgroup."""
        return self._number(("memory.oom_control", "memory.events"), "oom_kill")

    async def remove(self) -> None:
        """Remove the folders. A killed process may take some ms to leave them. The rest is removed later."""
        for _ in range(_REMOVE_TRIES):
            try:
                for folder in self.folders:
                    _remove(folder)
            except OSError:
                await trio.sleep(0.005)
            else:
                return
        self.parent.leftovers.update(self.folders)

    def _number(self, names: tuple[str, str], key: str) -> int:
        for folder in self.folders:
            with suppress(OSError, ValueError):
                for line in (folder / names[self.version - 1]).read_text().splitlines():
                    if not key:
                        return int(line)
                    if line.split()[0] == key:
                        return int(line.split()[1])
        return 0


def make(name: str, memory_bytes: int, *, mounts: Path = Path("/sys/fs/cgroup")) -> Cgroup | None:
    """Create the parent `name` in this process's own cgroup. None if that is not allowed.

    `memory_bytes`: memory limit of each jail as a whole. `name` starts with PREFIX. Parents of killed daemons are
    removed.
    """
    own = _own_cgroups()
    return _version_2(own, name, memory_bytes, mounts) or _version_1(own, name, memory_bytes, mounts)


def _claimed(parent: Path, mount: Path) -> Claim:
    """Create a parent, or take over a killed daemon's, and remove those of other killed daemons. Raises OSError."""
    claim = claim_new(parent, 0o700)
    # A killed daemon may have been in a different cgroup.
    for other in _parents_below(mount):
        if other != parent:
            sweep_one(other, remove_tree)
    for left in parent.iterdir():
        if left.is_dir():
            with suppress(OSError):
                remove_tree(left)
    return claim


def _parents_below(mount: Path) -> list[Path]:
    """Return the parents of all daemons in a hierarchy, including killed ones. Examines a bounded number of cgroups."""
    found: list[Path] = []
    for seen, (folder, names, _) in enumerate(os.walk(mount)):
        if seen >= _MOST_LOOKED_AT:
            break
        found += [Path(folder, name) for name in names if _PARENT.fullmatch(name)]
        names[:] = [name for name in names if not _PARENT.fullmatch(name)]
    return found


def _own_cgroups() -> dict[str, str]:
    """Return controller -> this process's path in its hierarchy. For version 2, the controller is ''."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found


def _version_1(own: dict[str, str], name: str, memory_bytes: int, mounts: Path) -> Cgroup | None:
    folders: list[Path] = []
    claims: list[Claim] = []
    arguments: list[str] = []
    limits = {"memory": ("mem", memory_bytes), "pids": ("pids", _PIDS)}
    for controller, (option, limit) in limits.items():
        mount = mounts / controller
        if controller not in own or not (mount / "cgroup.procs").exists():
            continue
        # In a cgroup namespace, the path may not exist in the mount. Then the root of the mount is its own cgroup.
        inside = own[controller].strip("/")
        parent = Path(inside if (mount / inside).is_dir() else "") / name
        try:
            claim = _claimed(mount / parent, mount)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                _log.warning("can't use the cgroup %s: %s; it enforces no limits", mount / parent, error.strerror)
            continue
        if not os.access(mount / parent / "cgroup.procs", os.W_OK):
            claim.release()
            continue
        folders.append(mount / parent)
        claims.append(claim)
        arguments += [f"--cgroup_{option}_mount", str(mount), f"--cgroup_{option}_parent", str(parent)]
        arguments += [f"--cgroup_{option}_max", str(limit)]
    if not folders:
        return None
    held = memory_bytes if any(folder.parts[: len(mounts.parts) + 1][-1] == "memory" for folder in folders) else 0
    return Cgroup(version=1, folders=folders, memory_bytes=held, arguments=arguments, claims=claims)


def _version_2(own: dict[str, str], name: str, memory_bytes: int, mounts: Path) -> Cgroup | None:
    base = mounts / own.get("", "/").strip("/")
    if base.name == _LEAF:  # an earlier call in this process moved it there
        base = base.parent
    try:
        controllers = (base / "cgroup.controllers").read_text().split()
        if not {"memory", "pids"} <= set(controllers) or not os.access(base / "cgroup.subtree_control", os.W_OK):
            return None
        leaf, parent = base / _LEAF, base / name
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        # The controller of CPU time is not needed: it lets an operator set weights below the daemon's cgroup.
        wanted = " ".join(f"+{name}" for name in ("memory", "pids", "cpu") if name in controllers)
        (base / "cgroup.subtree_control").write_text(wanted)
        claim = _claimed(parent, mounts)
        try:
            (parent / "cgroup.subtree_control").write_text("+memory +pids")
        except OSError:
            claim.release()
            raise
    except OSError as error:
        level = logging.DEBUG if error.errno in _NOT_OURS else logging.WARNING
        _log.log(level, "no cgroup below %s: %s", base, error.strerror)
        return None
    arguments = ["--use_cgroupv2", "--cgroupv2_mount", str(parent), "--cgroup_mem_max", str(memory_bytes)]
    arguments += ["--cgroup_pids_max", str(_PIDS)]
    return Cgroup(version=2, folders=[parent], memory_bytes=memory_bytes, arguments=arguments, claims=[claim])
