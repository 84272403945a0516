"""CPU priorities and scheduling policies of jailed processes (sched(7)).

A run gets a low niceness after 5 ms, a start at once. Zygotes and their children are SCHED_BATCH."""

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


def make_batch(pid: int) -> None:
    """Give a process, and its future children, the policy SCHED_BATCH. It needs no rights over an own process.

    Unlike others, such a process does not take the core from a running process when it wakes up. So a child that gets
    its job, and a zygote whose child has ended, do not interrupt the event loop, for which all runs wait. The share of
    CPU time stays the same."""
    with suppress(OSError):
        if os.sched_getscheduler(pid) == os.SCHED_OTHER:  # otherwise the administrator has chosen the daemon's policy
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))


@functools.cache
def can_restore() -> bool:
    """Whether this process may raise lowered priorities again (CAP_SYS_NICE; proc_pid_status(5))."""
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text("utf-8", "replace")
        effective = next(line for line in status.split("\n") if line.startswith("CapEff:\t"))
        return bool(int(effective.split()[1], 16) >> _CAP_SYS_NICE & 1)
    return False
