"""Prints console lines during a run, without blocking the run if their reader is slow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from promptlogctl.cli import output
from promptlogctl.client import LogLine, OnLog


@contextmanager
def printed() -> Iterator[OnLog]:
    """Context manager: a callback for console lines. A thread prints them; at the end of the block, all are printed.

    Without the thread, a full pipe on standard error would stop the client from reading, and so the program from
    writing. The run's log limit bounds the queue.
    """
    lines: SimpleQueue[LogLine | None] = SimpleQueue()

    def print_all() -> None:
        while (line := lines.get()) is not None:
            output.log_line(line)

    thread = threading.Thread(target=print_all, daemon=True)
    thread.start()
    try:
        yield lines.put
    finally:
        lines.put(None)
        thread.join()
