"""Prints console lines while the run goes on. A slow reader of them does not hold up the run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from promptlogctl.cli import output
from promptlogctl.client import LogLine, OnLog


@contextmanager
def printed() -> Iterator[OnLog]:
    """Give what takes the lines. A thread prints them; at the end of the block all are printed.

    Otherwise a full pipe behind standard error would keep the client from reading, and so the program from writing. The
    run's limit of console lines bounds the queue.
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
