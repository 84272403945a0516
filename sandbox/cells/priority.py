"""CPU priorities of jailed processes, as niceness (sched(7)). A run gets a low one after 5 ms, a start at once."""

from __future__ import annotations

import functools
import os
from contextlib import suppress
from pathlib import Path

NICE = 10
"""Niceness of a run after LOW_PRIORITY_AFTER_S, and of a cell that starts. Under contention it gets a tenth of the
CPU time."""

_CAP_SYS_NICE = 23
"""capabilities(7), linux/capability.h."""


def lower(pid: int) -> None:
    """Give a process a low priority. A process that has ended is no error."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)


def restore(pid: int) -> None:
    """Reset a process to the daemon's own priority. See `can_restore`."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0))


@functools.cache
def can_restore() -> bool:
    """Whether this process may raise lowered priorities again (CAP_SYS_NICE; proc_pid_status(5))."""
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text("utf-8", "replace")
        effective = next(line for line in status.split("\n") if line.startswith("CapEff:\t"))
        return bool(int(effective.split()[1], 16) >> _CAP_SYS_NICE & 1)
    return False
