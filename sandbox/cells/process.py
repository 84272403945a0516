"""One nsjail process, which starts one process after the other in a jail, and reports how each ended."""

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

LAUNCH = Path(__file__).with_name("launch")
"""A static executable, from launch.c."""

_LOG_BYTES = 16 * 1024
"""Bytes of nsjail's log that are kept, from its end."""

_ERRORS_BYTES = 64 * 1024
"""Bytes of a jailed process's standard error: the capacity of a pipe. Further output is lost and blocks nobody."""

_ERROR_CHARACTERS = 300
_CHILDREN = "/proc/{0}/task/{0}/children"
"""The list of a process's children (proc_pid_task_tid_children(5)). Kernels without CONFIG_PROC_CHILDREN lack it."""
_CHILDREN_BYTES = 64
"""Bytes of this list that are read. Two pids need fewer, so several children are never taken for one."""

_FLOOR_MARGIN_BYTES = 4 << 20
"""Memory that the daemon may have freed between the fork and the measurement of its resident size."""


# nsjail's report of a process in the jail, from waitpid(2), on a descriptor that the jail does not have.
_END = re.compile(r"pid=(\d+) \(.*?\) (?:exited with status: (\d+)|terminated with signal: [^\n]*?\((\d+)\))")
_HARMLESS = "setpriority("
"""A warning of nsjail with this text never explains why a jail did not start. A cell starts with a low priority, and
nsjail lacks the right to raise it."""

_SAID = re.compile(r"(?:exited with|terminated with) .*")


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a process in the jail ended: signal or exit code."""

    pid: int
    signal: int = 0
    exit_code: int = 0


class Supervisor:
    """One nsjail, its log, and the standard error of the processes in the jail. Created by `spawn`."""

    def __init__(self, process: subprocess.Popen[bytes], log: int, errors: int, floor_bytes: int) -> None:
        """`floor_bytes`: resident size of the process that forked nsjail."""
        self.pid = process.pid
        self._process = process
        self._log = log
        self._errors = errors
        self._words = ""
        self._descriptor = os.pidfd_open(process.pid)
        self._waiting = trio.Lock()
        self._floor_bytes = floor_bytes
        self.peak_bytes = 0
        """After nsjail has ended: the largest resident size of any process that was in the jail (wait4(2)). 0 if
        unknown, because nsjail itself, which starts as a copy of the daemon, was larger."""
        self._gone = False

    async def wait(self) -> None:
        """Wait until nsjail has ended, and reap it."""
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
        """Kill nsjail, and with it all processes in the jail."""
        if not self._gone:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """Close the log and the standard error. Call this once."""
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
        """Return how this process ended, if nsjail has logged it. nsjail does so about 0.1 ms after the end."""
        return ending(self._words, pid)

    def log_fileno(self) -> int:
        """Return a descriptor that is readable when nsjail has written to its log."""
        return self._log

    def another_ended(self, pid: int) -> bool:
        """Whether the part of nsjail's log that was read reports the end of a process other than this one."""
        return any(int(found[1]) != pid for found in _END.finditer(self._words))

    def read_log(self) -> bool:
        """Read the new part of nsjail's log. Return whether nsjail may write more."""
        try:
            while part := os.read(self._log, _LOG_BYTES):
                self._words = (self._words + part.decode("utf-8", "replace"))[-_LOG_BYTES:]
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def read_errors(self) -> bytes:
        """Return the first 64 KiB written to standard error in the jail since the last call."""
        try:
            return os.read(self._errors, _ERRORS_BYTES)
        except OSError:  # none
            return b""

    def forget(self) -> None:
        """Drop the output so far, which belongs to earlier processes."""
        self.read_errors()
        self.read_log()
        self._words = ""

    def last_words(self) -> str:
        """Return the jail's own error output in one line. Call it only if no program has run in the jail."""
        self.read_log()
        lines = [line for line in self._words.splitlines() if _HARMLESS not in line]
        words = [line for line in lines if line.startswith(("[E]", "[W]", "[F]"))][-3:]
        how = [found.group() for line in self._words.splitlines() if (found := _SAID.search(line))][-1:]
        errors = self.read_errors().decode("utf-8", "replace").strip().splitlines()[:1]
        errors = ["".join(filter(str.isprintable, line))[:_ERROR_CHARACTERS] for line in errors]
        return " / ".join([*words, *errors, *how]) or "it did not start and printed nothing; try: promptlogctl doctor"


def spawn(
    executable: Path, arguments: Sequence[str], cgroup_files: Sequence[Path] = (), *, cwd: Path, **options: Any
) -> Supervisor:
    """Start nsjail in this folder and these cgroups (`cgroup.procs` files). The kernel kills it when this thread ends.

    `options` are those of subprocess.Popen. Takes 0.3 ms: without a preexec_fn, Python uses vfork(2). Raises OSError.
    """
    log, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        errors, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        os.close(log)
        os.close(theirs)
        raise
    command = [str(LAUNCH), str(os.getpid()), *map(str, cgroup_files), "--"]
    command += [str(executable), "--log_fd", str(theirs), *arguments]
    # A separate process group, so that Ctrl-C at the daemon's terminal reaches only the daemon. Not a separate session:
    # with autogrouping (sched(7)), niceness has an effect only among processes of one session.
    options = {**options, "pass_fds": (theirs,), "stderr": stderr, "env": {}, "process_group": 0}
    if not cgroup_files:
        _forget_own_peak()
    try:
        process = subprocess.Popen(command, cwd=cwd, **options)
        try:
            return Supervisor(process, log, errors, _resident_bytes() + _FLOOR_MARGIN_BYTES)
        except BaseException:  # no descriptor was free
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
    """Reset this process's peak memory to its resident set size (proc_pid_clear_refs(5)).

    A child of vfork(2) inherits the peak, and wait4(2) would report it for the jail. Without a cgroup, wait4(2) is the
    source of a jailed process's peak.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident_bytes() -> int:
    """Return the resident set size of this process (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def has_ended(pidfd: int) -> bool:
    """Whether a process has ended (pidfd_open(2)). With poll(2), because select(2) supports no descriptors above
    1,023."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def lists_children() -> bool:
    """Whether `only_child` works on this kernel."""
    return os.path.exists(_CHILDREN.format(os.getpid()))


def only_child(pid: int) -> int:
    """Return the pid of the only child of a process. Raises OSError; ValueError if there is not exactly one."""
    # Path.read_text takes five times as long, and each run of more than LOW_PRIORITY_AFTER_S calls this.
    children = os.open(_CHILDREN.format(pid), os.O_RDONLY | os.O_CLOEXEC)
    try:
        (child,) = os.read(children, _CHILDREN_BYTES).split()
    finally:
        os.close(children)
    return int(child)


def watch_only_child(pid: int, watch: Watch) -> int:
    """Have the watchdog watch the only child of a process, and return its pid. Runs are in the child's own child.

    Raises OSError, or ValueError if there is not exactly one child.
    """
    child = only_child(pid)
    pidfd = os.pidfd_open(child)
    try:
        if only_child(pid) != child:  # the pid may have been reused before its pidfd was opened
            raise ValueError("it has ended")
    except BaseException:
        os.close(pidfd)
        raise
    watch.follow(child, pidfd, forks=True)
    return child


def ending(log: str, pid: int) -> Ending | None:
    """Return how this process ended according to nsjail's log; None if the log does not have it."""
    for found in _END.finditer(log):
        if int(found[1]) == pid:
            return Ending(pid=pid, exit_code=int(found[2] or 0), signal=int(found[3] or 0))
    return None
