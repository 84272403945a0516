"""One job in a cell, from the first byte of its frame to its result. The same for every engine.

The cell feeds it bytes and events. The `verdict` module of each engine determines how the job ended.
"""

from __future__ import annotations

import fcntl
import socket
import termios
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import cached_property

import trio

from sandbox.cells.cell import Done, OnLines, Room
from sandbox.cells.job import Job, Result
from sandbox.engines.host.columns import Text
from sandbox.engines.host.console import Console, Stacks
from sandbox.engines.host.outcomes import Reader, Verdict
from sandbox.errors import CellLost
from sandbox.outcome import LogLine, Usage
from sandbox.protocol.events import Log, Trusted
from sandbox.protocol.frames import Caps, Decoder, Malformed, Task
from sandbox.protocol.machine import Machine, State

_SHORT_BYTES = 16 * 1024
"""Buffer for the output of most runs. A larger buffer takes longer to allocate than to read."""

_READ_BYTES = 256 * 1024
_READS = 4
"""Reads per wake-up, so that an endless writer cannot starve other cells. With decoding, they take 1 ms."""

_STREAM_BYTES = 8 * 1024
"""Bytes read at once for a run whose lines are streamed: up to 1,400 lines, each of which becomes a message."""

_JOINED_BYTES = 64 * 1024
"""A job of up to this size is joined to one buffer, which is faster to send. Larger texts are not copied."""


class Reading(Enum):
    """The result of reading the output of a process."""

    PART = auto()
    """More may be available now."""
    ALL = auto()
    """Nothing more is available now."""
    END = auto()
    """End of file."""
    NO_ROOM = auto()
    """Nothing was read, because there is no room for console lines."""


class Run:
    """One job in progress. `machine` has its state."""

    def __init__(
        self,
        job: Job,
        *,
        machine: Machine,
        frame: Sequence[bytes | memoryview],
        stacks: Stacks,
        done: Done,
        on_lines: OnLines | None,
        room: Room | None = None,
        token: bytes = b"",
        tells_memory: bool = True,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        """`frame`: the frame of the job, in parts. `token`, `tells_memory`: see `Decoder` and `Caps`.

        `now`: reads trio's clock.
        """
        self.job = job
        self.machine = machine
        self.done = done
        self.malformed = ""
        """The reason why the process's bytes were invalid; empty if they were valid."""
        self._now = now
        self.began = now()
        self.wall_at = self.began + job.limits.wall_ms / 1000
        self._text = Text(job.source)
        self._stacks = stacks
        self.reader = Reader(job.limits, stacks, job.source_name, self._text)
        self._decoder = Decoder(
            Caps(
                task=job.task,
                result_bytes=job.limits.result_bytes,
                log_bytes=job.limits.log_bytes,
                artifact_bytes=job.artifact_bytes if job.task is Task.CHECK else 0,
                mappings=stacks.MAPPINGS,
                tells_memory=tells_memory,
            ),
            token=token,
        )
        self._truncated = False
        """Whether console lines were cut or dropped."""
        self._logs: list[LogLine] = []
        self._take_lines = on_lines or self._logs.extend
        self.streams = on_lines is not None
        """Whether console lines are passed on as soon as they are decoded."""
        self._room = room if on_lines is not None else None
        """Room for streamed lines. Other lines are kept here, within the run's limits."""
        if sum(map(len, frame)) <= _JOINED_BYTES:
            self._unsent = deque((memoryview(b"".join(frame)),))
        else:
            self._unsent = deque(memoryview(part) for part in frame if part)
        self.in_parts = False
        """Whether the job did not fit into the socket at once."""

    @cached_property
    def _console(self) -> Console:
        """Created with the first line, because most runs have none."""
        return Console(self.job.limits, self._stacks, self.job.source_name, self._text)

    @property
    def unsent(self) -> bool:
        """Whether a part of the job is not sent yet."""
        return bool(self._unsent)

    @property
    def begun(self) -> bool:
        """Whether any part of the job was sent."""
        return self.machine.state is not State.BLANK and self.machine.state is not State.STARTING

    @property
    def backlog(self) -> bool:
        """Whether some of the bytes that were read are not processed yet. `receive` continues with them."""
        return self._decoder.backlog and self.machine.state is not State.ENDING

    @property
    def flood(self) -> bool:
        """Whether the process has sent too much after its last message."""
        return self._decoder.flood

    def send(self, data: socket.socket) -> None:
        """Send as much of the job as the socket accepts. Raises CellLost if nothing could be sent."""
        sent_any = False
        try:
            while self._unsent:
                unsent = self._unsent
                self._drop(data.send(unsent[0]) if len(unsent) == 1 else data.sendmsg(unsent))
                sent_any = True
        except BlockingIOError:
            self.in_parts = True
        except OSError as error:
            if self.machine.state is State.SENDING and not sent_any:
                raise CellLost(f"its data socket failed: {error}") from error
            self._unsent.clear()  # the kernel reports the end of the process soon
            return
        if not self._unsent and self.machine.state is State.SENDING:
            self.machine.happen(Trusted.SENT)

    def _drop(self, sent: int) -> None:
        unsent = self._unsent
        while unsent and sent >= len(unsent[0]):
            sent -= len(unsent.popleft())
        if sent:
            unsent[0] = unsent[0][sent:]

    def receive(self, data: socket.socket) -> Reading:
        """Read the output of the process, in bounded parts, and process a part of it.

        While there is a `backlog`, nothing is read, because a process can write any number of frames.
        """
        if self.backlog:
            return self.look()
        reads, size = (1, _STREAM_BYTES) if self._room is not None else (_READS, _READ_BYTES)
        while reads and not self.backlog:
            reads -= 1
            if self._lacks_room:
                return Reading.NO_ROOM
            try:
                received = data.recv(size)
            except BlockingIOError:
                return Reading.ALL
            except OSError:
                return Reading.END
            if not received:
                return Reading.END
            if self._feed(received):
                break
        return Reading.PART

    def look(self) -> Reading:
        """Process a part of the `backlog`."""
        if self.backlog:
            if self._lacks_room:
                return Reading.NO_ROOM
            self._feed(b"")
        return Reading.PART if self.backlog else Reading.ALL

    def receive_all(self, data: socket.socket) -> Reading:
        """Read all that a dead process left in the socket (at most 2.5 MiB), and process a part of it."""
        parts, size = [], _SHORT_BYTES
        try:
            while True:
                received = data.recv(size)
                parts.append(received)
                if len(received) < size:
                    # There is no more. A stream socket returns less than it holds only at a descriptor or at
                    # out-of-band data (unix(7)). The seccomp policies allow only writes, which can send neither.
                    # With SO_PASSCRED (Deno), a read also ends where the data of another process begins.
                    break
                size = _READ_BYTES
        except OSError:  # BlockingIOError: that was all
            pass
        if len(parts) == 1 and self._room is None and not self._decoder.backlog:
            self._feed(received)  # the usual case, without a queue
            if not self._decoder.backlog:
                return Reading.ALL
        elif self.machine.state is not State.ENDING:
            self._decoder.hold(parts)
        return self.look()

    def drop_rest(self) -> None:
        """Drop the `backlog`, because there is no room for its lines, and note that console lines were cut."""
        self._truncated = True

    @property
    def _lacks_room(self) -> bool:
        return self._room is not None and not self._room.has_room()

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once there is room, after NO_ROOM."""
        assert self._room is not None
        self._room.when_room(callback)

    def _feed(self, received: bytes) -> bool:
        """Process the next bytes. Return whether they had console lines, which is enough work for one turn."""
        lines: list[LogLine] = []
        came = self._process(received, lines)
        if lines:
            self._take_lines(lines)
        return came

    def _process(self, received: bytes, lines: list[LogLine]) -> bool:
        """Process the next bytes, and add their console lines to `lines`. Return whether there were any, even if
        dropped."""
        machine, came = self.machine, False
        if machine.state is State.ENDING:
            return False
        try:
            messages = self._decoder.feed(received)
        except Malformed as error:
            self.malformed = str(error)
            machine.happen(Trusted.MALFORMED)
            return False
        for message in messages:
            if machine.receive(message) is State.ENDING:
                self.malformed = "a message that is not allowed in this state"
                return came
            if isinstance(message, Log):
                came = True
                line = self._console.line(message)
                self._truncated = self._truncated or self._console.truncated
                if line is not None:
                    lines.append(line)
        return came

    def was_read(self, data: socket.socket) -> bool:
        """Whether the process has read its whole job (SIOCOUTQ, unix(7)). Otherwise the next process would read the
        rest."""
        try:
            answer = fcntl.ioctl(data, termios.TIOCOUTQ, bytes(4))
        except OSError:
            return False
        return not self._unsent and not self._decoder.surplus and int.from_bytes(answer, "little") == 0

    @property
    def surplus(self) -> bool:
        """Whether the process has sent anything after its last message."""
        return self._decoder.surplus

    @property
    def partial(self) -> bool:
        """Whether the last bytes ended within a message. They may be from another process."""
        return self._decoder.partial

    def wall_ms(self) -> float:
        """Return the wall time since its start, in ms."""
        return _rounded((self._now() - self.began) * 1000)

    def result(self, outcome: Verdict, *, cpu_ms: float, wall_ms: float, peak_bytes: int) -> Result:
        """Return the result of the job."""
        usage = Usage(cpu_ms=_rounded(cpu_ms), wall_ms=wall_ms, peak_memory_bytes=peak_bytes)
        return Result(outcome=outcome, logs=self._logs, logs_truncated=self._truncated, usage=usage)


def _rounded(ms: float) -> float:
    """Round to microseconds. Takes half of the time of `round(ms, 3)`, which prints the number and parses it."""
    return round(ms * 1000) / 1000
