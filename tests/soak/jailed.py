"""Finds the jailed processes of one daemon, and kills one at random. It kills by pid, and only below that daemon."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36

KINDS = ("nsjail", "zygote", "child")
"""The kinds of processes below a daemon, by depth."""


def children(pid: int) -> list[int]:
    """Return the children of a process, including zombies."""
    found: list[int] = []
    with suppress(OSError):  # the process has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def below(pids: Iterable[int]) -> list[int]:
    """Return these processes and all of their descendants."""
    found = list(pids)
    for pid in found:
        found += children(pid)  # the loop reaches these as well
    return found


def alive(pid: int) -> bool:
    """Whether a process is alive, and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _is_nsjail(pid: int) -> bool:
    """Whether this is nsjail, not the dynamic loader or `deno eval`, which the daemon runs to list a jail's files."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "nsjail\n"
    except OSError:
        return False


def kill_one(daemon: int, kind: str, chance: random.Random) -> tuple[float, float] | None:
    """Kill a process of this kind below the daemon. Return the times before and after, or None if there was none."""
    pairs = [(daemon, child) for child in children(daemon) if _is_nsjail(child)]
    for _ in range(KINDS.index(kind)):
        pairs = [(parent, child) for _, parent in pairs for child in children(parent)]
    if not pairs:
        return None
    parent, pid = chance.choice(pairs)
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        # Check that the pid still belongs to the same process.
        if pid not in children(parent) or not alive(pid):
            return None
        before = time.monotonic()
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return None
    finally:
        os.close(handle)
    return before, time.monotonic()


class Orphans:
    """The processes that a killed daemon leaves. They become children of this process, which reaps them."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._others = set(children(os.getpid()))

    def living(self) -> list[int]:
        """Return those that are alive, and reap the others. The process must have no new child of its own meanwhile."""
        mine = [pid for pid in children(os.getpid()) if pid not in self._others]
        living = [pid for pid in below(mine) if alive(pid)]
        for pid in mine:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return living

    def gone_after(self, most_s: float) -> float:
        """Wait until none is alive, and return the seconds that it took. Raises TimeoutError."""
        began = time.monotonic()
        while left := self.living():
            if time.monotonic() - began > most_s:
                raise TimeoutError(f"{len(left)} processes outlive their daemon by {most_s:g} s")
            time.sleep(0.005)
        return time.monotonic() - began
