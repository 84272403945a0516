"""One `deno` in a jail, as the kernel shows it: its CPU clock, its memory, whether it lives. Seen from the daemon."""

from __future__ import annotations

import math
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sandbox.cells import priority
from sandbox.cells.process import has_ended
from sandbox.errors import CellLost
from sandbox.limits import Limits

_cores = dict.fromkeys(sorted(os.sched_getaffinity(0)), 0)
"""How many processes with a run on each core has."""

_LAST_CORE = 36
"""Where proc_pid_stat(5) has `processor`, counted from behind the name."""


class DenoProcess:
    """The process that takes one run. To be closed."""

    def __init__(self, pid: int, *, data_bytes: int | None) -> None:
        """`data_bytes`: RLIMIT_DATA, where that holds its memory. Raises OSError if there is no such process."""
        self.pid = pid
        self.data_bytes = data_bytes
        self.file_bytes = 0
        """What was resident of files at the last look at its memory."""
        self._core: int | None = None
        self._descriptor = os.pidfd_open(pid)
        try:
            if data_bytes is not None:
                resource.prlimit(pid, resource.RLIMIT_DATA, (data_bytes, data_bytes))
        except BaseException:
            os.close(self._descriptor)
            raise

    def fileno(self) -> int:
        """Return what is readable once the process has ended (pidfd_open(2))."""
        return self._descriptor

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)
        if self._core is not None:
            _cores[self._core] -= 1

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return not has_ended(self._descriptor)

    def kill(self) -> None:
        """Kill it, if it is still there."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def cpu_ns(self) -> int:
        """Read its CPU clock, all of its threads (clock_getcpuclockid(3)). Raises CellLost."""
        try:
            used_ns = time.clock_gettime_ns((~self.pid << 3) | 2)
        except OSError as error:
            raise CellLost("it is gone") from error
        if not self.is_alive():
            raise CellLost("it is gone")  # and the pid may be another's by now
        return used_ns

    def peak_bytes(self) -> int:
        """Return the most that was resident of its own: without the files, such as the engine's, that it shares.

        0 if it has ended.
        """
        try:
            sizes = status_bytes(Path(f"/proc/{self.pid}/status").read_bytes())
            peak, file, shared = sizes[b"VmHWM"], sizes[b"RssFile"], sizes[b"RssShmem"]
        except (OSError, KeyError):
            return 0
        if not self.is_alive():
            return 0  # the pid may be another's by now
        self.file_bytes = file + shared
        return max(0, peak - self.file_bytes)

    def limit_cpu(self, limits: Limits) -> None:
        """Put RLIMIT_CPU, in whole seconds, behind the watchdog's looks at the clock. Raises CellLost."""
        seconds = math.ceil(self.cpu_ns() / 1e9 + limits.cpu_ms / 1000) + 1
        try:
            resource.prlimit(self.pid, resource.RLIMIT_CPU, (seconds, seconds + 1))
        except OSError as error:
            raise CellLost(f"it took no limit: {error}") from error

    @property
    def cores(self) -> int:
        """Number of cores that its threads can use at once: one, unless `keep_to_one_core` failed."""
        return len(_cores) if self._core is None else 1

    def keep_to_one_core(self) -> None:
        """Keep all its threads, present and future, on one core: its own, or the one with the fewest such processes.

        A dozen threads on all cores would keep the watchdog from a core, and exceed the CPU limit meanwhile.
        """
        fewest = min(_cores.values())
        with suppress(OSError, ValueError, IndexError):
            own = int(Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()[_LAST_CORE])
            self._core = own if _cores.get(own) == fewest else min(_cores, key=_cores.__getitem__)
            _cores[self._core] += 1
            core = self._core
            self._for_each_thread(lambda thread: os.sched_setaffinity(thread, {core}))

    def lower_priority(self) -> None:
        """Let it give way to others, all of its threads."""
        self._for_each_thread(priority.lower)

    def _for_each_thread(self, do: Callable[[int], None]) -> None:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                with suppress(OSError):  # one that has just ended is no reason to pass over the rest
                    do(int(thread))


def status_bytes(status: bytes) -> dict[bytes, int]:
    """Return the sizes in a process's status, in bytes (proc_pid_status(5)).

    A process chooses its name, which is in the first line and may look like other lines. The kernel escapes line feeds
    in the name, but no other separator.
    """
    sizes: dict[bytes, int] = {}
    for line in status.split(b"\n"):
        name, _, rest = line.partition(b":\t")
        match rest.split():
            case [size, b"kB"] if size.isdigit():
                sizes[name] = int(size) * 1024
    return sizes
