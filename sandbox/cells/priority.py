"""CPU priorities of jailed processes, as niceness (sched(7)). A run gets a low one after 5 ms, a start at once."""

from __future__ import annotations

import functools
import os
import threading
from contextlib import suppress

_DIFFERENCE = 10
"""Difference between a low priority and the daemon's own. Under contention, a run after LOW_PRIORITY_AFTER_S or a cell
that starts gets a tenth of the CPU time."""

_LOWEST = 19
"""Niceness of the lowest priority (sched(7))."""


def low() -> int:
    """Return the niceness of a low priority. It depends on the daemon's own, which the service manager may set."""
    return min(os.getpriority(os.PRIO_PROCESS, 0) + _DIFFERENCE, _LOWEST)


def lower(pid: int) -> None:
    """Give a process a low priority. A process that has ended is no error."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, low())


def restore(pid: int) -> None:
    """Reset a process to the daemon's own priority. See `can_restore`."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0))


@functools.cache
def can_restore() -> bool:
    """Whether this process may raise lowered priorities again. Found by trying it, with a thread.

    CAP_SYS_NICE (capabilities(7)) in a user namespace, for example of a rootless container, does not give this right.
    """
    answers: list[bool] = []
    with suppress(RuntimeError):  # no thread is left
        thread = threading.Thread(target=lambda: answers.append(_can_raise()))
        thread.start()
        thread.join()
    return answers == [True]


def _can_raise() -> bool:
    """Lower the priority of the calling thread, and try to restore it."""
    thread = threading.get_native_id()  # on Linux, each thread has its own niceness (setpriority(2))
    own = os.getpriority(os.PRIO_PROCESS, thread)
    try:
        os.setpriority(os.PRIO_PROCESS, thread, _LOWEST)
        os.setpriority(os.PRIO_PROCESS, thread, own)
    except OSError:
        return False
    return True
