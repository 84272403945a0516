"""The watchdog: kills processes that exceed their limits, even while the daemon's loop is busy. Run as a script.

Usage: watchdog.py TABLE SLOT:PID:PIDFD:FORKS...

The daemon and this process share a table in memory, in which each cell has a slot. The daemon writes a run's limits
into its cell's slot when the run starts, and clears the slot when the run has ended. Neither takes a system call. This
process sleeps until the earliest limit can be reached. Descriptor 0 is a stream socket to the daemon, over which the
daemon sends pidfds and wakes this process. When the daemon closes its end, this process ends.

The first word of the table is the time of this process's next wake-up. The daemon sends a message only if a limit that
it has just written is earlier. So a steady load of runs costs two wake-ups in the time of one wall limit, instead of
one for each run.

The words of a slot. Each has only one writer. A word is 8 aligned bytes, and is read and written atomically:

    WALL_AT      daemon    CLOCK_MONOTONIC, ns, at which the run must be over; 0: no run. It also identifies the run:
                           no two runs in one slot have the same.
    CPU_AT       daemon    the process's CPU clock, ns, at which the run's CPU limit is reached; 0: not watched here
    CORES        daemon    number of cores that the process can use
    WALL_KILLED  watchdog  WALL_AT of the run that is killed for its wall time
    CPU_KILLED   watchdog  WALL_AT of the run that is killed for its CPU time
    CPU_USED     watchdog  the process's CPU clock, ns, when it was killed; written before the two above

Neither side has a lock or a fence, so a store may become visible to the other side after a later load. Therefore this
process waits (`SETTLE_S`) between a store and the load that depends on it. Each of these pairs then has at least one
side that sees the other's store:

    a run ends while it is about to be killed
        daemon:   WALL_AT = 0;  read *_KILLED            watchdog: *_KILLED = run;  wait;  read WALL_AT
        The daemon sees the claim, and counts the run as killed; or the watchdog sees that the run is over, and kills
        nothing. Both may be true: then the daemon discards a process that nobody kills. The next run of the slot has
        another identifier. So the daemon never takes an old claim for the new run's, and this process drops a kill that
        it decided on for the old run.
    a run starts while this process goes to sleep
        daemon:   WALL_AT = run;  read WAKES_AT          watchdog: WAKES_AT = t;  wait;  read all WALL_AT
        The daemon sends a message, or the watchdog sees the run before it sleeps.
    a slot gets another process
        daemon:   send the pidfd;  WALL_AT = run         watchdog: read all messages;  read WALL_AT;  kill
        The killed pidfd belongs to this run, or to an earlier one. In the latter case that process is already dead,
        because a pidfd never refers to another process, and the next turn kills the right one.

The watchdog runs outside the jails with the daemon's rights, and reads no byte of a program. It imports only small
parts of the standard library, because it stays in memory as long as the daemon.
"""

import gc
import mmap
import posix
import select
import sys
import time
from _signal import SIG_IGN, SIGHUP, SIGINT, SIGKILL, SIGTERM, pidfd_send_signal, signal  # type: ignore[import-not-found]  # `signal` takes `enum`, and 1 MiB
from _socket import CMSG_SPACE, MSG_DONTWAIT, socket
from _struct import Struct

NEVER_NS = (1 << 64) - 1
WAKES_AT = 0
"""Index of the word with the time of this process's next wake-up. The slots start at `SLOT_WORDS`."""

SLOT_WORDS = 8
WALL_AT, CPU_AT, CORES, WALL_KILLED, CPU_KILLED, CPU_USED = range(6)

READY = b"R"
"""Sent by this process when it is ready."""

MESSAGE = Struct("=cBxxIi")
"""A message from the daemon: type, whether the process forks, slot, pid."""

WATCH = b"W"
"""Message type: watch this process in this slot. Its pidfd comes with the message. If it forks, its child is killed."""

FORGET = b"F"
WAKE = b"N"
"""Message type: read the table now."""

SETTLE_S = 0.0002
"""Wait time for stores to become visible. A processor makes its stores visible to others in less than a microsecond."""

LOOK_NS = 1_000_000
"""Minimum time between two reads of a process's CPU clock."""

_NICENESS = -10
"""This process needs little CPU time, but needs it at once. Raising the priority requires CAP_SYS_NICE."""

_DESCRIPTOR = Struct("=i")
_MESSAGES_BYTES = 256 * MESSAGE.size


class Watched:
    """The watched process of a slot."""

    def __init__(self, pid: int, pidfd: int, *, forks: bool) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.forks = forks
        self.killed = 0
        """Identifier of the run for which it was killed."""

    def kill(self) -> None:
        """Kill the process. If it forks, kill only its child, so that it can report the child's end."""
        if not (self.forks and self._kill_child()):
            try:
                pidfd_send_signal(self.pidfd, SIGKILL)
            except OSError:  # it has ended
                pass

    def _kill_child(self) -> bool:
        try:
            child = self._child()
            pidfd = posix.pidfd_open(child)
        except (OSError, ValueError):
            return False
        try:
            # Read again, because the pid may have been reused before its pidfd was opened.
            if self._child() != child or self.has_ended():
                return False
            pidfd_send_signal(pidfd, SIGKILL)
        except (OSError, ValueError):
            return False
        finally:
            posix.close(pidfd)
        return True

    def _child(self) -> int:
        file = posix.open(f"/proc/{self.pid}/task/{self.pid}/children", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return int(posix.read(file, 64))  # fails unless there is exactly one child
        finally:
            posix.close(file)

    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def cpu_ns(self) -> int:
        """Return its CPU clock, including all threads (clock_getcpuclockid(3)). 0 if it has ended."""
        try:
            used = time.clock_gettime_ns((~self.pid << 3) | 2)
        except OSError:
            return 0
        return 0 if self.has_ended() else used  # the pid may have been reused


class Watchdog:
    def __init__(self, words: "memoryview[int]", daemon: socket) -> None:
        self._words = words
        self._daemon = daemon
        self._slots: dict[int, Watched] = {}

    def watch(self, slot: int, watched: Watched) -> None:
        self._forget(slot)
        self._slots[slot] = watched

    def _forget(self, slot: int) -> None:
        watched = self._slots.pop(slot, None)
        if watched is not None:
            posix.close(watched.pidfd)

    def hear(self) -> bool:
        """Read all messages. Return whether the daemon is still connected."""
        while True:
            try:
                # The kernel ends a read after a message with a descriptor, so there is at most one (unix(7)).
                data, control, _, _ = self._daemon.recvmsg(_MESSAGES_BYTES, CMSG_SPACE(_DESCRIPTOR.size), MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            for what, forks, slot, pid in MESSAGE.iter_unpack(data):
                if what == WATCH:
                    (pidfd,) = _DESCRIPTOR.unpack(control[0][2])
                    self.watch(slot, Watched(pid, pidfd, forks=bool(forks)))
                elif what == FORGET:
                    self._forget(slot)

    def turn(self) -> int:
        """Kill processes that exceed their limits. Return the time of the next check (CLOCK_MONOTONIC, ns)."""
        words = self._words
        over = []
        wakes_at = NEVER_NS
        for slot, watched in self._slots.items():
            at = (slot + 1) * SLOT_WORDS
            run, due, now = self._due(at, watched)
            if due > now:
                wakes_at = min(wakes_at, due)
            else:
                words[at + (WALL_KILLED if now >= run else CPU_KILLED)] = run
                over.append((at, run, watched))
        words[WAKES_AT] = wakes_at
        time.sleep(SETTLE_S)
        for at, run, watched in over:
            if words[at + WALL_AT] == run:
                watched.killed = run
                watched.kill()
        for slot, watched in self._slots.items():
            _, due, _ = self._due((slot + 1) * SLOT_WORDS, watched)
            wakes_at = min(wakes_at, due)
        words[WAKES_AT] = wakes_at
        return wakes_at

    def _due(self, at: int, watched: Watched) -> "tuple[int, int, int]":
        """Return the run in a slot, the earliest time at which one of its limits can be reached, and the time now."""
        words = self._words
        run = words[at + WALL_AT]
        now = time.monotonic_ns()
        if not run or run == watched.killed:
            return run, NEVER_NS, now
        cpu_at = words[at + CPU_AT]
        if not cpu_at:
            return run, run, now
        used = watched.cpu_ns()
        if used >= cpu_at or run <= now:
            words[at + CPU_USED] = used
            return run, now, now
        # Earliest time at which the CPU limit can be reached, with all its cores busy.
        return run, min(run, now + max((cpu_at - used) // max(words[at + CORES], 1), LOOK_NS)), now


def main(table: int, watched: "list[str]") -> None:
    # It ends with the daemon, not by a signal to the process group, because runs may continue after such a signal.
    for number in (SIGHUP, SIGINT, SIGTERM):
        signal(number, SIG_IGN)
    try:
        posix.setpriority(posix.PRIO_PROCESS, 0, _NICENESS)
    except OSError:  # requires CAP_SYS_NICE
        pass
    daemon = socket(fileno=0)
    words = memoryview(mmap.mmap(table, 0)).cast("Q")
    posix.close(table)
    watchdog = Watchdog(words, daemon)
    for text in watched:
        slot, pid, pidfd, forks = map(int, text.split(":"))
        watchdog.watch(slot, Watched(pid, pidfd, forks=bool(forks)))
    gc.disable()  # no reference cycles are created here
    daemon.send(READY)
    while watchdog.hear():
        wakes_at = watchdog.turn()
        timeout_s = None if wakes_at == NEVER_NS else max(wakes_at - time.monotonic_ns(), 0) / 1e9
        select.select([0], [], [], timeout_s)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
