"""Writes the log in a thread: whoever reads standard error, and how slowly, does not hold up the daemon's loop."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from queue import Full, Queue
from typing import TextIO

_MOST_LINES = 1000
"""Lines that wait to be written. Further ones are dropped and counted."""

_CLOSE_S = 2.0
"""How long the end of the daemon waits for the lines that are still to be written."""


class LogWriter(logging.Handler):
    """Hands lines to a thread that writes them."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: Queue[str | None] = Queue(_MOST_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over a line, or drop it."""
        line = self.format(record)
        if self._dropped:
            line += f" ({self._dropped} lines before it were dropped: nobody reads them)"
        try:
            self._lines.put_nowait(line)
            self._dropped = 0
        except Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is left, for a bounded time."""
        with suppress(Full):
            self._lines.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # gone, or closed at the interpreter's end
                self._stream.write(f"{line}\n")
                self._stream.flush()
