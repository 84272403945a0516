"""Writes the log in a thread, so that a slow reader of standard error does not block the event loop."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from queue import Full, Queue
from typing import TextIO

_MOST_LINES = 1000
"""Maximum number of waiting lines. Further ones are dropped and counted."""

_CLOSE_S = 2.0
"""Time limit for writing the remaining lines when the daemon stops."""


class LogWriter(logging.Handler):
    """Passes lines to a thread that writes them."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: Queue[str | None] = Queue(_MOST_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or drop it if the queue is full."""
        line = self.format(record)
        if self._dropped:
            line += f" ({self._dropped} lines before it were dropped, because nobody reads the log)"
        try:
            self._lines.put_nowait(line)
            self._dropped = 0
        except Full:
            self._dropped += 1

    def close(self) -> None:
        """Write the remaining lines, within a time limit."""
        with suppress(Full):
            self._lines.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # the reader has closed it, or the interpreter has at its exit
                self._stream.write(f"{line}\n")
                self._stream.flush()
