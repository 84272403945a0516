"""A parent cgroup of promptlog's own, below which nsjail puts each jail: the second holder of memory and processes.

RLIMIT_AS and seccomp hold both already; a cgroup counts what a whole jail has, the kernel's memory for it included.
Version 1 wants writable `memory` and `pids` hierarchies (root, mostly); version 2 wants a delegated cgroup (systemd's
Delegate=yes), whose processes this module moves to a leaf first, as the kernel demands (cgroups(7), "no internal
processes"). Where neither is to be had there is no cgroup, and that is said in `stats`.
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
"""Of one cell. nsjail, and an engine with its threads."""

PREFIX = "promptlog-"
"""Prefix of the parents' names."""

_PARENT = re.compile(rf"{PREFIX}[0-9a-f]{{16}}")
"""Names of daemons' parents. Tests make others."""

_MOST_LOOKED_AT = 5000
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT}
"""Why a cgroup can't be had where it was not delegated."""

_LEAF = "supervisor"
"""The cgroup of the daemon itself: the name that systemd's documents give to such a cgroup."""

_REMOVE_S = 1.0
_REMOVE_TRIES = 40


class Cgroup(msgspec.Struct, frozen=True, kw_only=True):
    """A parent that exists, claimed by this process. `folders`: one for each hierarchy."""

    version: int
    folders: list[Path]
    memory_bytes: int
    arguments: list[str]
    """What nsjail is told."""
    claims: list[Claim]
    leftovers: set[Path] = set()
    """Cgroups of jails that were killed: the kernel may take some ms to let go of each."""

    def forget_jail(self, zygote: int | None) -> None:
        """Remove the cgroups of a jail whose nsjail has ended, now or at the next call. `zygote`: its first process.

        nsjail names them by that process, and removes them itself, unless it was killed.
        """
        if zygote is not None:
            self.leftovers.update(folder / f"NSJAIL.{zygote}" for folder in self.folders)
        self._tidy()

    def group(self, memory_bytes: int) -> Group:
        """Make a cgroup for one cell that nsjail is not told of, with so much memory for all in it. Raises OSError."""
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
        """Remove the parent; its jails must be gone. Waits up to a second for the kernel to let go of them."""
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
    """Remove a cgroup and those below it. Raises OSError if there is a process in one of them."""
    for parent, names, _ in os.walk(folder, topdown=False):
        for name in names:
            _remove(Path(parent, name))
    _remove(folder)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        folder.rmdir()


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One cell's cgroup: holds its memory and its threads, and tells what it had and whether it was ended for it."""

    version: int
    folders: list[Path]
    parent: Cgroup

    def make(self, memory_bytes: int) -> None:
        """Make the folders and set the limits. Raises OSError."""
        for folder in self.folders:
            folder.mkdir()
            for name, value in _LIMIT_FILES[self.version].items():
                file = folder / name
                if file.exists():
                    file.write_text(value.format(memory_bytes=memory_bytes))

    def process_files(self) -> list[Path]:
        """Return the files to which a process writes 0 to move there, with all that it starts."""
        return [folder / "cgroup.procs" for folder in self.folders]

    def holds(self, pid: int) -> bool:
        """Whether a process is in all of it."""
        try:
            return all(str(pid) in (folder / "cgroup.procs").read_text().split() for folder in self.folders)
        except OSError:
            return False

    def peak_bytes(self) -> int:
        """Return the most memory that it had at once since `forget_peak`; 0 if the kernel does not tell."""
        return self._number(("memory.max_usage_in_bytes", "memory.peak"), "") if self.version == 1 else 0

    def forget_peak(self) -> None:
        """Count the peak from now on. Version 2 can do this from Linux 6.12 on, for one descriptor: left to VmHWM."""
        for folder in self.folders:
            with suppress(OSError):
                if self.version == 1:
                    (folder / "memory.max_usage_in_bytes").write_text("0")

    def oom_kills(self) -> int:
        """Return how many processes the kernel has ended for lack of memory in it."""
        return self._number(("memory.oom_control", "memory.events"), "oom_kill")

    async def remove(self) -> None:
        """Remove the folders. A killed process may take some ms to leave them; what stays is removed later."""
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
    """Make the parent `name` below this process's own cgroup; None where that is not allowed.

    `memory_bytes`: the most that all of one jail may use. `name` begins with PREFIX. Parents beside it whose daemon was
    killed are removed.
    """
    own = _own_cgroups()
    return _version_2(own, name, memory_bytes, mounts) or _version_1(own, name, memory_bytes, mounts)


def _claimed(parent: Path, mount: Path) -> Claim:
    """Make a parent, or take over the one of a daemon that was killed, and remove such others. Raises OSError."""
    claim = claim_new(parent, 0o700)
    # A killed daemon may have been in another cgroup than this one.
    for other in _parents_below(mount):
        if other != parent:
            sweep_one(other, remove_tree)
    for left in parent.iterdir():
        if left.is_dir():
            with suppress(OSError):
                remove_tree(left)
    return claim


def _parents_below(mount: Path) -> list[Path]:
    """Return the parents of all daemons in a hierarchy, killed ones' too. Looks at a bounded number of cgroups."""
    found: list[Path] = []
    for seen, (folder, names, _) in enumerate(os.walk(mount)):
        if seen >= _MOST_LOOKED_AT:
            break
        found += [Path(folder, name) for name in names if _PARENT.fullmatch(name)]
        names[:] = [name for name in names if not _PARENT.fullmatch(name)]
    return found


def _own_cgroups() -> dict[str, str]:
    """Controller -> this process's path in its hierarchy; version 2 has the controller ''."""
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
        # A process in a cgroup namespace sees a path that is not below the mount: then its mount's root is its own.
        inside = own[controller].strip("/")
        parent = Path(inside if (mount / inside).is_dir() else "") / name
        try:
            claim = _claimed(mount / parent, mount)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                _log.warning("can't use the cgroup %s: %s; it holds nothing", mount / parent, error.strerror)
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
    if base.name == _LEAF:  # an earlier start of this process moved it there
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
