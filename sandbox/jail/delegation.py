"""A delegated cgroup of version 2, with the daemon in a leaf.

A cgroup cannot have both processes and children with controllers (cgroups(7), "no internal processes"). So the daemon
moves from the cgroup in which it was started to the leaf `supervisor`, and creates the cgroups of its jails beside this
leaf. With `DelegateSubgroup=supervisor` (version 254 or newer), systemd starts the daemon in the leaf.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

LEAF = "supervisor"
"""The name that systemd's documents give to such a cgroup."""

NEEDED = ("memory", "pids")
WANTED = (*NEEDED, "cpu")
"""The daemon sets no limits of `cpu`. It enables this controller so that an operator can set weights."""


class Delegation(msgspec.Struct, frozen=True, kw_only=True):
    """A delegated cgroup, `base`, in which children have controllers. Created by `enter`."""

    base: Path
    moved: bool
    """Whether this process came from `base`."""
    enabled: list[str]
    """The controllers that were not enabled before."""

    def leave(self) -> None:
        """Undo `enter`, except what another process still uses. All other children of `base` must have been removed."""
        _switch(self.base, "-", self.enabled)
        if self.moved:
            with suppress(OSError):
                _move_to(self.base)
                (self.base / LEAF).rmdir()


def enter(own: Path, *, needed: Sequence[str] = NEEDED, wanted: Sequence[str] = WANTED) -> Delegation | None:
    """Move this process to the leaf, and enable the wanted controllers. `own`: its cgroup now.

    Returns None, and changes nothing, if no cgroup with the needed controllers is delegated. Raises OSError, with all
    undone; EBUSY means that other processes are in the cgroup.
    """
    inside = own.name == LEAF  # by systemd, or by an earlier call in this process
    base = own.parent if inside else own
    controllers = (base / "cgroup.controllers").read_text().split()
    if not set(controllers).issuperset(needed) or not os.access(base / "cgroup.subtree_control", os.W_OK):
        return None
    before = (base / "cgroup.subtree_control").read_text().split()
    enabled = [name for name in wanted if name in controllers and name not in before]
    delegation = Delegation(base=base, moved=not inside, enabled=enabled)
    try:
        if not inside:
            (base / LEAF).mkdir(exist_ok=True)
            _move_to(base / LEAF)
        if enabled:
            (base / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in enabled))
    except BaseException:
        delegation.leave()
        raise
    return delegation


def _move_to(folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def _switch(base: Path, sign: str, controllers: list[str]) -> None:
    with suppress(OSError):
        if controllers:
            (base / "cgroup.subtree_control").write_text(" ".join(f"{sign}{name}" for name in controllers))
