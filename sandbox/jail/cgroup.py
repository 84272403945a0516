"""A parent cgroup for all jails: a second limit on memory and processes, in addition to RLIMIT_AS and seccomp.

A cgroup counts the memory of a whole jail, including the kernel's memory for it. Version 1 needs writable `memory` and
`pids` hierarchies (usually as root). Version 2 needs a delegated cgroup (`delegation.py`). If neither is available,
there is no cgroup, and `stats` says so. `cell_cgroup.py` has the cgroups below the parent.
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

from sandbox.claim import Claim, claim_new, sweep_one
from sandbox.jail.cell_cgroup import Group, JailGroup, remove_tree, tidy
from sandbox.jail.delegation import Delegation, enter

_log = logging.getLogger(__name__)
_PIDS = 4
"""The zygote and its child, twice."""

_numbers = itertools.count()

PREFIX = "promptlog-"
"""Prefix of the names of parent cgroups."""

_PARENT = re.compile(rf"{PREFIX}[0-9a-f]{{16}}")
"""Names of daemons' parent cgroups. Tests create others."""

_MOST_LOOKED_AT = 5000
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT}
"""Errors that mean that no cgroup was delegated."""

_REMOVE_S = 1.0


class Cgroup(msgspec.Struct, frozen=True, kw_only=True):
    """An existing parent cgroup, claimed by this process. `folders`: one for each hierarchy."""

    version: int
    folders: list[Path]
    memory_bytes: int
    arguments: list[str]
    """Arguments for all nsjails. Each has those of its `JailGroup` as well."""
    claims: list[Claim]
    delegation: Delegation | None = None
    """On version 2: the cgroup that the parent is in."""
    leftovers: set[Path] = set()
    """Cgroups of ended cells, which the kernel may take some ms to release."""

    def describe(self) -> str:
        """Return the version, the controllers and the folders in one line."""
        return f"version {self.version}: {' and '.join(self.controllers)}, in {', '.join(map(str, self.folders))}"

    @property
    def controllers(self) -> list[str]:
        """What it limits: memory, pids, or both."""
        options = {"memory": "--cgroup_mem_max", "pids": "--cgroup_pids_max"}
        return [name for name, option in options.items() if option in self.arguments]

    def jail(self) -> JailGroup:
        """Create a cgroup for one cell, in which nsjail creates its own. Raises OSError."""
        tidy(self.leftovers)
        folder = self.folders[0] / f"jail-{next(_numbers)}" if self.version == 2 else None
        jail = JailGroup(folder=folder, parents=self.folders, leftovers=self.leftovers)
        try:
            jail.make()
        except BaseException:
            jail.discard()
            raise
        return jail

    def group(self, memory_bytes: int) -> Group:
        """Create a cgroup for one cell, with its nsjail, with this memory limit. Raises OSError."""
        tidy(self.leftovers)
        name = f"cell-{next(_numbers)}"
        folders = [folder / name for folder in self.folders]
        group = Group(version=self.version, folders=folders, leftovers=self.leftovers)
        try:
            group.make(memory_bytes)
        except BaseException:
            self.leftovers.update(folders)
            tidy(self.leftovers)
            raise
        return group

    def remove(self) -> None:
        """Remove the parent. Its jails must have ended. Waits up to a second for the kernel to release them."""
        deadline = time.monotonic() + _REMOVE_S
        for folder, claim in zip(self.folders, self.claims, strict=True):
            with suppress(OSError):  # version 1 has no such file
                (folder / "cgroup.kill").write_text("1")
            while folder.exists():
                try:
                    remove_tree(folder)
                except OSError as error:
                    if time.monotonic() > deadline:
                        _log.warning("can't remove the cgroup %s: %s", folder, error.strerror)
                        break
                    time.sleep(0.01)
            claim.release()
        if self.delegation is not None:
            self.delegation.leave()


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
    folder = mounts / own.get("", "/").strip("/")
    delegation: Delegation | None = None
    try:
        delegation = enter(folder)
        if delegation is None:
            return None
        parent = delegation.base / name
        claim = _claimed(parent, mounts)
        try:
            (parent / "cgroup.subtree_control").write_text("+memory +pids")
        except OSError:
            with suppress(OSError):
                parent.rmdir()
            claim.release()
            raise
    except OSError as error:
        if delegation is not None:
            delegation.leave()
        level = logging.DEBUG if error.errno in _NOT_OURS else logging.WARNING
        _log.log(level, "no cgroup below %s: %s", folder, error.strerror)
        return None
    arguments = ["--use_cgroupv2", "--cgroup_mem_max", str(memory_bytes), "--cgroup_pids_max", str(_PIDS)]
    return Cgroup(
        version=2,
        folders=[parent],
        memory_bytes=memory_bytes,
        arguments=arguments,
        claims=[claim],
        delegation=delegation,
    )
