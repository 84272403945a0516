"""The watchdog: its table, with events in each order, and its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socketpair

import pytest
import trio

from sandbox.cells import watchdog as script
from sandbox.cells.process import has_ended
from sandbox.cells.watch import GRACE_MS, Watch, Watchdog
from sandbox.cells.watchdog import CPU_AT, CPU_KILLED, CPU_USED, NEVER_NS, SLOT_WORDS, WAKES_AT, WALL_AT, WALL_KILLED
from sandbox.errors import WatchdogError
from sandbox.protocol.events import Trusted
from tests.daemon.processes import children, cpu_s, is_alive, until

_LOOPS = "while True: pass"
_SLEEPS = "import time; time.sleep(600)"
_AT = SLOT_WORDS
"""Index of the first word of slot 0."""


@contextmanager
def _python(code: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that runs this Python code, and a pidfd of it that somebody else closes."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
    try:
        yield process, os.pidfd_open(process.pid)
    finally:
        process.kill()
        process.wait()


class _Turn:
    """A watchdog in this process, with one process in slot 0.

    `pause` runs where the watchdog waits for stores to settle.
    """

    def __init__(self, process: subprocess.Popen[bytes], pidfd: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.words = memoryview(bytearray(8 * 2 * SLOT_WORDS)).cast("Q")
        self.pause: Callable[[], None] = lambda: None
        self._daemon, end = socketpair()
        self._end = end
        self._watchdog = script.Watchdog(self.words, end)
        self._watchdog.watch(0, script.Watched(process.pid, pidfd, forks=False))
        self.kills = 0
        monkeypatch.setattr("sandbox.cells.watchdog.time.sleep", lambda _: self.pause())
        monkeypatch.setattr("sandbox.cells.watchdog.pidfd_send_signal", self._kill)

    def _kill(self, pidfd: int, number: int) -> None:
        self.kills += 1
        signal.pidfd_send_signal(pidfd, number)

    def take(self) -> int:
        """Take one turn."""
        return self._watchdog.turn()

    def close(self) -> None:
        """Close the sockets and the pidfd."""
        self._daemon.send(script.MESSAGE.pack(script.FORGET, False, 0, 0))
        assert self._watchdog.hear()
        self._daemon.close()
        self._end.close()


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[_Turn, subprocess.Popen[bytes]]]:
    """A turn, and the process in its slot."""
    with _python(_SLEEPS) as (process, pidfd):
        one = _Turn(process, pidfd, monkeypatch)
        yield one, process
        one.close()


def test_a_run_over_its_wall_limit_is_killed_once(turn: tuple[_Turn, subprocess.Popen[bytes]]) -> None:
    """The watchdog writes its claim before the kill; a run whose process was killed does not keep it awake."""
    one, process = turn
    run = time.monotonic_ns() - 1
    one.words[_AT + WALL_AT] = run
    seen: list[tuple[int, bool]] = []
    one.pause = lambda: seen.append((one.words[_AT + WALL_KILLED], is_alive(process.pid)))
    assert one.take() == NEVER_NS
    assert seen == [(run, True)]
    one.take()
    assert one.kills == 1
    assert process.wait(10) == -signal.SIGKILL


def test_a_run_that_ends_just_before_its_kill(turn: tuple[_Turn, subprocess.Popen[bytes]]) -> None:
    """The daemon sees the claim, and nothing is killed."""
    one, _ = turn
    run = time.monotonic_ns() - 1
    one.words[_AT + WALL_AT] = run

    def end() -> None:
        one.words[_AT + WALL_AT] = 0
        assert one.words[_AT + WALL_KILLED] == run

    one.pause = end
    assert one.take() == NEVER_NS
    assert one.kills == 0


def test_a_run_that_starts_just_before_the_kill_of_the_last_one(
    turn: tuple[_Turn, subprocess.Popen[bytes]],
) -> None:
    """The limit of the last run does not kill a new run in the slot, and the claim is not for the new run."""
    one, _ = turn
    one.words[_AT + WALL_AT] = time.monotonic_ns() - 1
    following = time.monotonic_ns() + 60_000_000_000
    one.pause = lambda: one.words.__setitem__(_AT + WALL_AT, following)
    assert one.take() == following
    assert one.words[_AT + WALL_KILLED] != following
    assert one.kills == 0


def test_a_run_that_begins_while_the_watchdog_goes_to_sleep(turn: tuple[_Turn, subprocess.Popen[bytes]]) -> None:
    """The watchdog sees a new run before it sleeps, or the daemon sees that it would wake too late."""
    one, _ = turn
    run = time.monotonic_ns() + 60_000_000_000
    announced: list[int] = []

    def begin() -> None:
        announced.append(one.words[WAKES_AT])
        one.words[_AT + WALL_AT] = run

    one.pause = begin
    assert one.take() == run == one.words[WAKES_AT]
    assert announced == [NEVER_NS]


def test_the_cpu_limit(turn: tuple[_Turn, subprocess.Popen[bytes]]) -> None:
    """The watchdog checks a process again at the earliest time at which it can reach its limit; above it, it kills."""
    one, process = turn
    until(lambda: cpu_s(process.pid) > 0)
    run = time.monotonic_ns() + 60_000_000_000
    one.words[_AT + CPU_AT] = 3_600_000_000_000
    one.words[_AT + WALL_AT] = run
    assert one.take() == run
    one.words[_AT + CPU_AT] = 30_000_000_000
    assert time.monotonic_ns() < one.take() < run
    one.words[_AT + CPU_AT] = 1
    one.take()
    assert one.words[_AT + CPU_KILLED] == run
    assert one.words[_AT + CPU_USED] > 0
    assert process.wait(10) == -signal.SIGKILL


@contextmanager
def _a_slot(watchdog: Watchdog) -> Iterator[Watch]:
    watch = watchdog.watch()
    try:
        yield watch
    finally:
        watch.close()


async def _has_ended(process: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(process.pid)
    try:
        with trio.fail_after(20):
            await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def test_the_watchdog_process_kills_in_time() -> None:
    """A process over its wall or CPU limit is killed; the process of a run that has ended is not."""
    watchdog = Watchdog(3)
    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.serve)
        with (
            _python(_SLEEPS) as (waiting, waiting_fd), _python(_LOOPS) as (busy, busy_fd),
            _python(_SLEEPS) as (done, done_fd), _a_slot(watchdog) as one, _a_slot(watchdog) as other,
            _a_slot(watchdog) as third,
        ):  # fmt: skip
            third.follow(done.pid, done_fd, forks=False)
            third.arm(1)
            assert third.disarm() is None
            one.follow(waiting.pid, waiting_fd, forks=False)
            other.follow(busy.pid, busy_fd, forks=False)
            one.arm(200)
            other.arm_with_cpu(60_000, 300_000_000, cpu_ms=300, cores=1)
            await _has_ended(waiting)
            await _has_ended(busy)
            assert one.disarm() is Trusted.WALL
            assert other.disarm() is Trusted.CPU
            assert other.cpu_used_ns() >= 300_000_000
            assert one.disarm() is None
            assert is_alive(done.pid)
        nursery.cancel_scope.cancel()


async def test_a_slot_with_a_new_process() -> None:
    """The slot's present process is killed, and not its previous one."""
    watchdog = Watchdog(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.serve)
        with _python(_SLEEPS) as (before, before_fd), _python(_SLEEPS) as (now, now_fd), _a_slot(watchdog) as watch:
            watch.follow(before.pid, before_fd, forks=False)
            watch.follow(now.pid, now_fd, forks=False)
            watch.arm(50)
            await _has_ended(now)
            assert is_alive(before.pid)
        nursery.cancel_scope.cancel()


async def test_slots_are_bounded_and_reused() -> None:
    """Taking a slot fails if all are taken, and succeeds when some are returned; closing twice is harmless."""
    watchdog = Watchdog(2)
    with pytest.raises(WatchdogError):
        watchdog.watch()  # the watchdog does not serve
    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.serve)
        for _ in range(50):
            with _a_slot(watchdog) as one, _a_slot(watchdog) as other:
                assert one.slot != other.slot
                with pytest.raises(WatchdogError):
                    watchdog.watch()
                one.close()
        nursery.cancel_scope.cancel()


async def test_a_killed_watchdog_is_replaced() -> None:
    """After a watchdog is killed, the next one enforces the limits of the runs in progress."""
    watchdog = Watchdog(1)
    before = set(children(os.getpid()))
    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.serve)
        with _python(_SLEEPS) as (process, pidfd), _a_slot(watchdog) as watch:
            watch.follow(process.pid, pidfd, forks=False)
            (pid,) = set(children(os.getpid())) - before - {process.pid}
            killed = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            watch.arm(500 - GRACE_MS)
            await _has_ended(process)
            assert watch.disarm() is Trusted.WALL
            assert has_ended(killed)
            os.close(killed)
        nursery.cancel_scope.cancel()
    until(lambda: set(children(os.getpid())) <= before)


async def test_the_first_watchdog_must_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon does not start without a watchdog."""
    monkeypatch.setattr(sys, "executable", "/nowhere")
    with pytest.raises(WatchdogError, match="/nowhere"):
        await Watchdog(1).serve()
