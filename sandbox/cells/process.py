"""An nsjail that the daemon started and that starts process after process in a jail, and what is said of their ends."""

from __future__ import annotations

import mmap
import os
import re
import select
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from sandbox.cells.watch import Watch

_LAUNCH = Path(__file__).with_name("launch")
"""A static executable, from launch.c."""

_LOG_BYTES = 16 * 1024
"""Of nsjail's log, its end is kept."""

_ERRORS_BYTES = 64 * 1024
"""Of a jailed process's standard error: what a pipe holds. What is more is lost, and keeps nobody waiting."""

_ERROR_CHARACTERS = 300
_FLOOR_MARGIN_BYTES = 4 << 20
"""What may have been resident of the daemon a moment before, when it forked, and is not any more."""


# nsjail's own word about a process in the jail, from waitpid(2), on a descriptor that the jail does not have.
_END = re.compile(r"pid=(\d+) \(.*?\) (?:exited with status: (\d+)|terminated with signal: [^\n]*?\((\d+)\))")
_SAID = re.compile(r"(?:exited with|terminated with) .*")


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a process in the jail ended: by this signal, or with this exit code."""

    pid: int
    signal: int = 0
    exit_code: int = 0


class Supervisor:
    """One nsjail, its log, and the standard error of what is in the jail. Made by `spawn`."""

    def __init__(self, process: subprocess.Popen[bytes], log: int, errors: int, floor_bytes: int) -> None:
        """`floor_bytes`: what was resident of the process that forked it."""
        self.pid = process.pid
        self._process = process
        self._log = log
        self._errors = errors
        self._words = ""
        self._descriptor = os.pidfd_open(process.pid)
        self._waiting = trio.Lock()
        self._floor_bytes = floor_bytes
        self.peak_bytes = 0
        """The largest resident size of any process that was in the jail, once nsjail has ended (wait4(2)); 0 if that is
        not known, since nsjail itself, which begins as a copy of the daemon, was larger."""
        self._gone = False

    async def wait(self) -> None:
        """Wait for nsjail's end, and reap it."""
        async with self._waiting:
            if not self._gone:
                await trio.lowlevel.wait_readable(self._descriptor)
                self._reap()

    def _reap(self) -> None:
        _, status, usage = os.wait4(self.pid, 0)  # it has ended: this does not wait
        self._process.returncode = os.waitstatus_to_exitcode(status)
        peak_bytes = usage.ru_maxrss * 1024
        self.peak_bytes = peak_bytes if peak_bytes > self._floor_bytes else 0
        self._gone = True
        os.close(self._descriptor)

    def is_alive(self) -> bool:
        """Whether nsjail has not ended."""
        return not self._gone and not has_ended(self._descriptor)

    def kill(self) -> None:
        """Kill nsjail, and with it what is in the jail."""
        if not self._gone:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the log and the errors. Once only."""
        trio.lowlevel.notify_closing(self._log)
        os.close(self._log)
        os.close(self._errors)

    def reaped_cpu_s(self) -> float:
        """Return the CPU time of all processes that nsjail has reaped, in steps of 10 ms (proc_pid_stat(5))."""
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def ending_of(self, pid: int) -> Ending | None:
        """Return how this process ended, if nsjail has logged it yet. It does so about 0.1 ms after the end."""
        return ending(self._words, pid)

    def log_fileno(self) -> int:
        """Return what is readable when nsjail writes to its log."""
        return self._log

    def another_ended(self, pid: int) -> bool:
        """Whether nsjail's log, as far as it was read, has the end of a process other than this one."""
        return any(int(found[1]) != pid for found in _END.finditer(self._words))

    def read_log(self) -> bool:
        """Read what nsjail has written; return whether it may write more."""
        try:
            while part := os.read(self._log, _LOG_BYTES):
                self._words = (self._words + part.decode("utf-8", "replace"))[-_LOG_BYTES:]
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def read_errors(self) -> bytes:
        """Return what was written in the jail to the standard error since the last look, the first 64 KiB."""
        try:
            return os.read(self._errors, _ERRORS_BYTES)
        except OSError:  # none
            return b""

    def forget(self) -> None:
        """Drop what was written so far: it is of processes that were."""
        self.read_errors()
        self.read_log()
        self._words = ""

    def last_words(self) -> str:
        """Return what was said, while there was no program in the jail, of why it is of no use, in one line."""
        self.read_log()
        words = [line for line in self._words.splitlines() if line.startswith(("[E]", "[W]", "[F]"))][-3:]
        how = [found.group() for line in self._words.splitlines() if (found := _SAID.search(line))][-1:]
        errors = self.read_errors().decode("utf-8", "replace").strip().splitlines()[:1]
        errors = ["".join(filter(str.isprintable, line))[:_ERROR_CHARACTERS] for line in errors]
        return " / ".join([*words, *errors, *how]) or "it did nothing, without a word; try: promptlogctl doctor"


def spawn(
    executable: Path, arguments: Sequence[str], cgroup_files: Sequence[Path] = (), *, cwd: Path, **options: Any
) -> Supervisor:
    """Start nsjail in this folder and these cgroups (their `cgroup.procs`). The kernel kills it when this thread ends.

    `options` are subprocess.Popen's. Takes 0.3 ms: without code of ours between fork and exec, Python uses vfork(2).
    Raises OSError.
    """
    log, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        errors, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        os.close(log)
        os.close(theirs)
        raise
    command = [str(_LAUNCH), str(os.getpid()), *map(str, cgroup_files), "--"]
    command += [str(executable), "--log_fd", str(theirs), *arguments]
    # Ctrl-C at the daemon's terminal is the daemon's affair. No session of its own: to the kernel's scheduler
    # (autogroup, sched(7)) each session is a party, and niceness counts only within one.
    options = {**options, "pass_fds": (theirs,), "stderr": stderr, "env": {}, "process_group": 0}
    if not cgroup_files:
        _forget_own_peak()
    try:
        process = subprocess.Popen(command, cwd=cwd, **options)
        try:
            return Supervisor(process, log, errors, _resident_bytes() + _FLOOR_MARGIN_BYTES)
        except BaseException:  # there was no descriptor for it
            process.kill()
            process.wait()
            raise
    except BaseException:
        os.close(log)
        os.close(errors)
        raise
    finally:
        os.close(theirs)
        os.close(stderr)


def _forget_own_peak() -> None:
    """Reset this process's peak of memory to its resident set size (proc_pid_clear_refs(5)).

    A child that vfork(2) makes inherits the peak, and wait4(2) would report it for the jail. Without a cgroup the peak
    of a jailed process comes from there.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident_bytes() -> int:
    """Return what is resident of this process (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def has_ended(pidfd: int) -> bool:
    """Whether a process has ended (pidfd_open(2)). With poll, since select(2) has no descriptors above 1,023."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def only_child(pid: int) -> int:
    """Return the pid of the one process that this one has started. Raises OSError or ValueError."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def watch_only_child(pid: int, watch: Watch) -> int:
    """Have the one process that this one has started watched, and return its pid. Runs are in its child.

    Raises OSError or ValueError.
    """
    child = only_child(pid)
    pidfd = os.pidfd_open(child)
    try:
        if only_child(pid) != child:  # the pid may have been another's when its pidfd was opened
            raise ValueError("it has ended")
    except BaseException:
        os.close(pidfd)
        raise
    watch.follow(child, pidfd, forks=True)
    return child


def ending(log: str, pid: int) -> Ending | None:
    """Return what nsjail's log says of this process's end; None if it says nothing."""
    for found in _END.finditer(log):
        if int(found[1]) == pid:
            return Ending(pid=pid, exit_code=int(found[2] or 0), signal=int(found[3] or 0))
    return None
