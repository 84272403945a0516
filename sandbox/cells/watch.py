"""The daemon's side of the watchdog: keeps its process running, and writes the limits of runs into the shared table.

The docstring of watchdog.py describes the table and the order of events. No run waits for the watchdog."""

from __future__ import annotations

import logging
import mmap
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns

import trio

from sandbox.cells.watchdog import (
    CORES,
    CPU_AT,
    CPU_KILLED,
    CPU_USED,
    FORGET,
    MESSAGE,
    READY,
    SLOT_WORDS,
    WAKE,
    WAKES_AT,
    WALL_AT,
    WALL_KILLED,
    WATCH,
)
from sandbox.errors import WatchdogError
from sandbox.protocol.events import Trusted

_log = logging.getLogger(__name__)

GRACE_MS = 20
"""The watchdog acts this long after a wall limit. The daemon itself ends runs at the limit, unless its loop is busy."""

_SCRIPT = Path(__file__).with_name("watchdog.py")
_WORD_BYTES = 8
_START_S = 10.0
_END_S = 1.0
"""Time limit for the end of the process after its socket is closed, and again after it is killed."""

_BACKOFF_S = (0.0, 0.05, 0.2, 1.0, 5.0)
"""Back-off: delays before the first, second, ... restart in a row."""

_STEADY_S = 10.0
"""A process that ran this long resets the delay."""


class Watchdog:
    """The process and the table of slots. `serve` keeps the process running; `watch` allocates slots."""

    def __init__(self, slots: int) -> None:
        """`slots`: maximum number of cells."""
        self._free = deque(range(slots))
        self._bytes = (slots + 1) * SLOT_WORDS * _WORD_BYTES
        self._watches: set[Watch] = set()
        self._table = -1
        self._words: memoryview[int] | None = None
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self) -> Watch:
        """Allocate a slot for a cell. The caller must close it. Raises WatchdogError."""
        if self._words is None or not self._free:
            raise WatchdogError("no slot is free for another cell")
        watch = Watch(self, self._words, self._free.popleft())
        self._watches.add(watch)
        return watch

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the process running until cancelled. Reports started when the process is ready.

        Raises WatchdogError if it does not start the first time. Later it is restarted, with back-off.
        """
        ends = 0
        try:
            self._open()
            await self._live(lambda: task_status.started())
            while True:
                self._mute()
                delay = _BACKOFF_S[min(ends, len(_BACKOFF_S) - 1)]
                _log.error("the watchdog ended; the next one starts in %g s", delay)
                await trio.sleep(delay)
                began = trio.current_time()
                try:
                    await self._live(lambda: None)
                except WatchdogError as error:
                    _log.error("%s", error)
                ends = 0 if trio.current_time() - began > _STEADY_S else ends + 1
        finally:
            if self._table >= 0:
                os.close(self._table)
                self._table = -1

    def tell(self, what: bytes, slot: int = 0, pid: int = 0, *, pidfd: int | None = None, forks: bool = False) -> None:
        """Send a message. A watchdog that stops receiving messages is killed; the next one gets the whole state."""
        if self._socket is None:
            return
        message = MESSAGE.pack(what, forks, slot, pid)
        try:
            if pidfd is None:
                self._socket.send(message)
            else:
                socket.send_fds(self._socket, [message], [pidfd])
        except BlockingIOError:
            if what != WAKE:  # otherwise the unread messages wake it
                assert self._process is not None
                self._process.kill()
        except OSError:  # it has ended
            pass

    def give_back(self, watch: Watch) -> None:
        """Free a slot."""
        self._watches.discard(watch)
        self._free.append(watch.slot)
        self.tell(FORGET, watch.slot)

    def _open(self) -> None:
        try:
            self._table = os.memfd_create("promptlog-limits", os.MFD_CLOEXEC)
            os.ftruncate(self._table, self._bytes)
            self._words = memoryview(mmap.mmap(self._table, self._bytes)).cast("Q")
        except OSError as error:
            raise WatchdogError(f"no shared memory: {error.strerror}") from error

    def _mute(self) -> None:
        """Set the time of the next wake-up to 0, so that `arm` sends no messages while there is no process."""
        assert self._words is not None
        self._words[WAKES_AT] = 0

    async def _live(self, ready: Callable[[], None]) -> None:
        """Start the process, call `ready` when it is ready, and wait until it ends. Raises WatchdogError."""
        ours, pidfd = self._spawn()
        try:
            watches = False
            with trio.move_on_after(_START_S):
                await trio.lowlevel.wait_readable(ours)
                watches = ours.recv(len(READY)) == READY
            if not watches:
                raise WatchdogError("it ended at once, or did not become ready")
            ready()
            await trio.lowlevel.wait_readable(ours)  # end of file: it has ended
        except OSError as error:
            raise WatchdogError(str(error)) from error
        finally:
            self._socket = None
            ours.close()
            try:
                await self._reap(pidfd)
            finally:
                os.close(pidfd)

    async def _reap(self, pidfd: int) -> None:
        """Wait until the process, whose socket is closed, has ended. Kill it if that takes too long."""
        assert self._process is not None
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * _END_S):
            with trio.move_on_after(_END_S):
                await trio.lowlevel.wait_readable(pidfd)
            self._process.kill()
            await trio.lowlevel.wait_readable(pidfd)
            self._process.wait()  # it has ended: this does not wait

    def _spawn(self) -> tuple[socket.socket, int]:
        """Start the process with all currently watched processes. Return the socket to it, and its pidfd.

        Takes 1 ms, without Python code between fork and exec: see `sandbox.cells.process.spawn`.
        """
        watches = [watch for watch in self._watches if watch.pidfd is not None]
        command = [sys.executable, "-I", "-S", "-B", str(_SCRIPT), str(self._table)]
        command += [f"{watch.slot}:{watch.pid}:{watch.pidfd}:{watch.forks:d}" for watch in watches]
        pidfds = [watch.pidfd for watch in watches if watch.pidfd is not None]
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise WatchdogError(str(error)) from error
        ours.setblocking(False)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    pass_fds=(self._table, *pidfds),
                    cwd="/",
                    env={},
                    process_group=0,
                )
            except OSError as error:
                ours.close()
                raise WatchdogError(str(error)) from error
        try:
            pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            ours.close()
            self._process.kill()
            self._process.wait()
            raise WatchdogError(str(error)) from error
        self._socket = ours
        return ours, pidfd


class Watch:
    """One cell's slot."""

    __slots__ = ("_at", "_closed", "_run", "_watchdog", "_words", "forks", "pid", "pidfd", "slot")

    def __init__(self, watchdog: Watchdog, words: memoryview[int], slot: int) -> None:
        self.slot = slot
        self.pid = 0
        self.pidfd: int | None = None
        """The watched process, if there is one."""
        self.forks = False
        self._watchdog = watchdog
        self._words = words
        self._at = (slot + 1) * SLOT_WORDS
        self._run = 0
        """Identifier of this run in the table; 0 if there is no run."""
        self._closed = False

    def follow(self, pid: int, pidfd: int, *, forks: bool) -> None:
        """Watch this process from now on, instead of the previous one. This object closes the pidfd.

        `forks`: runs are in the only child of this process.
        """
        self._drop()
        self.pid, self.pidfd, self.forks = pid, pidfd, forks
        self._watchdog.tell(WATCH, self.slot, pid, pidfd=pidfd, forks=forks)

    def arm(self, wall_ms: int) -> None:
        """Start a run. Call this before any part of its job is sent. Usually takes no system call."""
        run = self._run = monotonic_ns() + (wall_ms + GRACE_MS) * 1_000_000
        words = self._words
        words[self._at + WALL_AT] = run
        if run < words[WAKES_AT]:
            self._watchdog.tell(WAKE)

    def arm_with_cpu(self, wall_ms: int, cpu_at_ns: int, *, cpu_ms: int, cores: int) -> None:
        """Start a run with a CPU limit, which only the watchdog enforces.

        `cpu_at_ns`: value of the process's CPU clock at the limit `cpu_ms`. `cores`: number of cores that it can use.
        """
        words, at = self._words, self._at
        words[at + CORES] = cores
        words[at + CPU_AT] = cpu_at_ns
        now = monotonic_ns()
        run = self._run = now + (wall_ms + GRACE_MS) * 1_000_000
        words[at + WALL_AT] = run
        if min(run, now + cpu_ms * 1_000_000 // cores) < words[WAKES_AT]:
            self._watchdog.tell(WAKE)

    def disarm(self) -> Trusted | None:
        """End the run. Return the cause, CPU or WALL, if the watchdog has killed it or was about to; otherwise None.

        If a cause is returned, the process must not be used again.
        """
        run, self._run = self._run, 0
        if not run:
            return None
        words, at = self._words, self._at
        words[at + WALL_AT] = 0
        if words[at + CPU_AT]:
            words[at + CPU_AT] = 0
            if words[at + CPU_KILLED] == run:
                return Trusted.CPU
        return Trusted.WALL if words[at + WALL_KILLED] == run else None

    def cpu_used_ns(self) -> int:
        """Return the value of the process's CPU clock when the watchdog killed it. Only after `arm_with_cpu`."""
        return self._words[self._at + CPU_USED]

    def close(self) -> None:
        """Free the slot. Calling this again is no error."""
        if not self._closed:
            self._closed = True
            self.disarm()
            self._drop()
            self._watchdog.give_back(self)

    def _drop(self) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
