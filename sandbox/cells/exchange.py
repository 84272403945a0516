"""What goes over a cell's data socket for one job: its frame out, the engine's frames in. Not: how it ends."""

from __future__ import annotations

import fcntl
import select
import socket
import termios
from collections.abc import Callable

from sandbox.cells.job import Trial
from sandbox.engines.replies import ReplyReader
from sandbox.errors import CellLost
from sandbox.outcome import LogLine

_READ_BYTES = 256 * 1024
_READS = 4
"""How often a process's output is read before others have their turn: one that writes without end may keep up."""

_ROOM_BYTES = 1280 * 1024
"""For a result, a prompt or a source of the default limits at once."""

_SO_SNDBUFFORCE = 32  # socket(7), asm-generic/socket.h; not in Python's socket module


def make_room(end: socket.socket) -> None:
    """Let the other end take in a whole message before it is read: fewer waits. The host may allow less."""
    try:
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM_BYTES)
    except OSError:  # it takes CAP_NET_ADMIN to go over net.core.wmem_max
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM_BYTES)


class Exchange:
    """One job's bytes in both directions, as far as the socket takes and gives them without waiting."""

    def __init__(
        self,
        data: socket.socket,
        poll: select.epoll,
        frame: bytes,
        reader: ReplyReader,
        trial: Trial,
        on_log: Callable[[LogLine], None] | None,
    ) -> None:
        """`poll`: has `data` in it, and waits for it to be writable while there is something to send."""
        self.reader = reader
        self.begun = False
        """Whether anything of the job was handed over."""
        self._data = data
        self._poll = poll
        self._unsent = memoryview(frame)
        self._polled = self._listens = 0
        self._trial = trial
        self._on_log = on_log

    @property
    def unsent(self) -> bool:
        """Whether a part of the job has still to be handed over."""
        return bool(self._unsent)

    @property
    def waits(self) -> bool:
        """Whether there is anything to wait for on the data socket."""
        return self._polled != 0

    def send(self) -> None:
        """Send what the socket takes. Raises CellLost."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self._data.send(self._unsent) :]
                self.begun = True
        except BlockingIOError:
            pass
        except OSError as error:
            raise CellLost(f"its data socket broke: {error}") from error
        self._wait_for_what_matters()

    def listen(self) -> None:
        """From now on wait for output as well. Before that it is read when something else has happened."""
        self._listens = select.EPOLLIN
        self._wait_for_what_matters()

    def close(self) -> None:
        """Wait for nothing any more. The socket stays open."""
        self._unsent = self._unsent[:0]
        self._listens = 0
        self._wait_for_what_matters()

    def _wait_for_what_matters(self) -> None:
        wanted = self._listens | (select.EPOLLOUT if self._unsent else 0)
        if wanted != self._polled:
            self._polled = wanted
            self._poll.modify(self._data, wanted)

    def receive(self, *, to_the_end: bool) -> bool:
        """Read what is there, or a part of that if there is much; return whether more may come. Raises BadReply."""
        reads = 0
        while to_the_end or reads < _READS:
            reads += 1
            try:
                data = self._data.recv(_READ_BYTES)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            for line in self.reader.feed(data):
                if self._on_log is None:
                    self._trial.logs.append(line)
                else:
                    self._on_log(line)
        return True

    def was_read(self) -> bool:
        """Whether the process took all that it was sent: the next one would read the rest (SIOCOUTQ, unix(7))."""
        try:
            answer = fcntl.ioctl(self._data, termios.TIOCOUTQ, bytes(4))
        except OSError:
            return False
        return not self._unsent and int.from_bytes(answer, "little") == 0
