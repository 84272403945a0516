"""One `deno` process in a jail, as seen from the daemon: its CPU clock, its memory, whether it is alive."""

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
"""Number of processes with a run, by core."""

_LAST_CORE = 36
"""Index of `processor` in proc_pid_stat(5), counted from the field after the name."""


class DenoProcess:
    """The process that executes one run. It must be closed."""

    def __init__(self, pid: int, *, data_bytes: int | None) -> None:
        """`data_bytes`: RLIMIT_DATA, if it limits the memory. Raises OSError if there is no such process."""
        self.pid = pid
        self.data_bytes = data_bytes
        self.file_bytes = 0
        """Resident size of files when its memory was last read."""
        self._core: int | None = None
        self._descriptor = os.pidfd_open(pid)
        try:
            if data_bytes is not None:
                resource.prlimit(pid, resource.RLIMIT_DATA, (data_bytes, data_bytes))
        except BaseException:
            os.close(self._descriptor)
            raise

    def fileno(self) -> int:
        """Return a descriptor that is readable once the process has ended (pidfd_open(2))."""
        return self._descriptor

    def close(self) -> None:
        """Close the descriptors, and release its core."""
        os.close(self._descriptor)
        if self._core is not None:
            _cores[self._core] -= 1

    def is_alive(self) -> bool:
        """Whether the process is running."""
        return not has_ended(self._descriptor)

    def kill(self) -> None:
        """Kill the process, if it is still running."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def cpu_ns(self) -> int:
        """Read its CPU clock, including all threads (clock_getcpuclockid(3)). Raises CellLost."""
        try:
            used_ns = time.clock_gettime_ns((~self.pid << 3) | 2)
        except OSError as error:
            raise CellLost("it has ended") from error
        if not self.is_alive():
            raise CellLost("it has ended")  # and the pid may have been reused
        return used_ns

    def peak_bytes(self) -> int:
        """Return its peak private memory, without shared files such as the engine's. 0 if it has ended."""
        try:
            sizes = status_bytes(Path(f"/proc/{self.pid}/status").read_bytes())
            peak, file, shared = sizes[b"VmHWM"], sizes[b"RssFile"], sizes[b"RssShmem"]
        except (OSError, KeyError):
            return 0
        if not self.is_alive():
            return 0  # the pid may have been reused
        self.file_bytes = file + shared
        return max(0, peak - self.file_bytes)

    def limit_cpu(self, limits: Limits) -> None:
        """Set RLIMIT_CPU, in whole seconds, as a second limit behind the watchdog. Raises CellLost."""
        seconds = math.ceil(self.cpu_ns() / 1e9 + limits.cpu_ms / 1000) + 1
        try:
            resource.prlimit(self.pid, resource.RLIMIT_CPU, (seconds, seconds + 1))
        except OSError as error:
            raise CellLost(f"its limit could not be set: {error}") from error

    @property
    def cores(self) -> int:
        """Number of cores that its threads can use: one, unless `keep_to_one_core` failed."""
        return len(_cores) if self._core is None else 1

    def keep_to_one_core(self) -> None:
        """Restrict all its threads, current and future, to one core: its current one, or the one with the fewest runs.

        On all cores, a dozen threads could keep the watchdog from running, and exceed the CPU limit.
        """
        fewest = min(_cores.values())
        with suppress(OSError, ValueError, IndexError):
            own = int(Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()[_LAST_CORE])
            self._core = own if _cores.get(own) == fewest else min(_cores, key=_cores.__getitem__)
            _cores[self._core] += 1
            core = self._core
            self._for_each_thread(lambda thread: os.sched_setaffinity(thread, {core}))

    def lower_priority(self) -> None:
        """Give all its threads a low priority."""
        self._for_each_thread(priority.lower)

    def _for_each_thread(self, do: Callable[[int], None]) -> None:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                with suppress(OSError):  # continue if a thread has just ended
                    do(int(thread))


def status_bytes(status: bytes) -> dict[bytes, int]:
    """Return the sizes in a process's status file, in bytes (proc_pid_status(5)).

    The first line has the process's name, which the process chooses and which may look like other lines. The kernel
    escapes line feeds in the name, but no other separators.
    """
    sizes: dict[bytes, int] = {}
    for line in status.split(b"\n"):
        name, _, rest = line.partition(b":\t")
        match rest.split():
            case [size, b"kB"] if size.isdigit():
                sizes[name] = int(size) * 1024
    return sizes
