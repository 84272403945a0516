"""An nsjail process that the daemon started, and the kernel's account of it and of what it waited for (wait4(2))."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

# nsjail's own word about the process in the jail, from waitpid(2), on a descriptor that the jail does not have.
_EXITED = re.compile(r"pid=\d+ \(.*?\) exited with status: (\d+)")
_SIGNALED = re.compile(r"pid=\d+ \(.*?\) terminated with signal: [^\n]*?\((\d+)\)")


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time and largest resident size of nsjail and all that was in its jail."""

    cpu_ms: float
    peak_memory_bytes: int


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How the process in the jail ended: by this signal, or with this exit code."""

    signal: int = 0
    exit_code: int = 0


class Jailed:
    """One nsjail. Made by `spawn`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process
        self._descriptor = os.pidfd_open(process.pid)
        self._waiting = trio.Lock()
        self.account: Account | None = None

    async def wait(self) -> Account:
        """Wait for nsjail's end, and reap it."""
        async with self._waiting:
            while self.account is None:
                await trio.lowlevel.wait_readable(self._descriptor)
                self._reap()
        return self.account

    def _reap(self) -> None:
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self.account = Account(
                cpu_ms=(usage.ru_utime + usage.ru_stime) * 1000, peak_memory_bytes=usage.ru_maxrss * 1024
            )
            os.close(self._descriptor)

    def kill(self) -> None:
        """Kill nsjail, and with it what is in the jail."""
        if self.account is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)


async def spawn(command: list[str], started: Callable[[int], None] | None = None, **options: Any) -> Jailed:
    """Start nsjail. `started` is called with its pid, in a thread, while it stands still before it has done anything.

    To move a process to a cgroup can take the kernel 20 ms. `options` are subprocess.Popen's.

    Raises OSError.
    """

    def start() -> Jailed:
        process = subprocess.Popen(
            command,
            env={},
            # Ctrl-C at the daemon's terminal is the daemon's affair. No session of its own: to the kernel's scheduler
            # (autogroup, sched(7)) each session is a party, and niceness counts only within one.
            process_group=0,
            **options,
        )
        try:
            if started is not None:
                process.send_signal(signal.SIGSTOP)
                started(process.pid)
                process.send_signal(signal.SIGCONT)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return Jailed(process)

    return await trio.to_thread.run_sync(start)


def only_child(pid: int) -> int:
    """Return the pid of the one process that this one has started. Raises OSError or ValueError."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def ending(log: str) -> Ending | None:
    """Return what nsjail's log says of the jailed process's end; None if it says nothing."""
    if found := _SIGNALED.search(log):
        return Ending(signal=int(found[1]))
    if found := _EXITED.search(log):
        return Ending(exit_code=int(found[1]))
    return None
