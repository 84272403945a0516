"""Writes the log in a thread: a slow journald, or a slow reader of standard error, does not block the event loop."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue
from typing import Literal, TextIO

import msgspec

from promptlogd.log_format import (
    Entry,
    datagram,
    entry_of,
    file_line,
    journal_json_line,
    journal_line,
    json_line,
    terminal_line,
)

LogFormat = Literal["auto", "human", "json"]

_MOST_LINES = 1000
"""Maximum number of waiting lines. Further ones are dropped and counted."""

_CLOSE_S = 2.0
"""Time limit for writing the remaining lines when the daemon stops."""

JOURNAL_SOCKET = "/run/systemd/journal/socket"
"""Where journald receives its native protocol."""


class LogWriter(logging.Handler):
    """Passes events to a thread that writes them."""

    def __init__(self, stream: TextIO) -> None:
        """`stream`: standard error."""
        super().__init__()
        self._stream = stream
        self._is_journal = _is_journal(stream)
        self._form: Callable[[Entry], str] = file_line
        self._journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._is_journal else None
        self._wants_fields = True
        self._dropped = 0
        self._entries: Queue[Entry | None] = Queue(_MOST_LINES)
        self.choose("auto")
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def choose(self, format: LogFormat) -> None:
        """Write in this format from now on. `auto`: fields for journald if it reads the stream, else as `human`."""
        human = terminal_line if self._stream.isatty() else file_line
        if self._is_journal:
            self._form = journal_json_line if format == "json" else journal_line
        else:
            self._form = json_line if format == "json" else human
        self._wants_fields = format == "auto"

    def emit(self, record: logging.LogRecord) -> None:
        """Queue an event, or drop it if the queue is full."""
        entry = entry_of(record)
        if self._dropped:
            note = f" ({self._dropped} lines before it were dropped, because nobody reads the log)"
            entry = msgspec.structs.replace(entry, message=entry.message + note)
        try:
            self._entries.put_nowait(entry)
            self._dropped = 0
        except Full:
            self._dropped += 1

    def close(self) -> None:
        """Write the remaining lines, within a time limit."""
        with suppress(Full):
            self._entries.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)
        if self._journal is not None and not self._thread.is_alive():
            self._journal.close()
        super().close()

    def _write(self) -> None:
        while (entry := self._entries.get()) is not None:
            if self._journal is not None and self._wants_fields and _sent(self._journal, entry):
                continue
            with suppress(OSError, ValueError):  # the reader has closed it, or the interpreter has at its exit
                self._stream.write(f"{self._form(entry)}\n")
                self._stream.flush()


def _sent(journal: socket.socket, entry: Entry) -> bool:
    """Send an event to journald, which may take long: journald reads at most 512 datagrams ahead (unix(7)).

    Return whether it was sent. If not, journald is not at this path, and may still read standard error.
    """
    try:
        journal.sendto(datagram(entry), JOURNAL_SOCKET)  # by path: after a restart, journald has another socket
    except OSError:
        return False
    return True


def _is_journal(stream: TextIO) -> bool:
    """Whether a stream is connected to journald, which adds the time itself ($JOURNAL_STREAM, systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
