"""A thread writes the lines of the log, so a reader that stops does not block the daemon."""

from __future__ import annotations

import logging
import os
import re
import select
import time
from contextlib import suppress

from promptlogd.log_writer import LogWriter


def _logger(handler: LogWriter) -> logging.Logger:
    logger = logging.Logger("tests.log_writer")
    logger.addHandler(handler)
    return logger


def test_a_stopped_reader_does_not_block_logging() -> None:
    """With a full pipe, lines are dropped and counted; when the reader continues, the rest arrives in order."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        handler = LogWriter(stream)
        logger = _logger(handler)
        began = time.monotonic()
        for number in range(5000):
            logger.warning("line %d %s", number, "x" * 100)
        assert time.monotonic() - began < 5
        received = b""
        while select.select([reading], [], [], 1)[0]:  # the scheduler decides how many lines there are
            received += os.read(reading, 65536)
        logger.warning("last")
        handler.close()
    while part := os.read(reading, 65536):
        received += part
    os.close(reading)
    lines = received.decode().splitlines()
    numbers = [int(line.split()[1]) for line in lines[:-1]]
    assert numbers == sorted(numbers)
    assert 1000 <= len(numbers) < 5000
    dropped = [int(found[1]) for line in lines if (found := re.search(r"\((\d+) lines before it were dropped", line))]
    assert sum(dropped) == 5000 - len(numbers)
    assert lines[-1].startswith("last")


def test_close_writes_the_remaining_lines() -> None:
    """Lines that were logged just before the end are written."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        handler = LogWriter(stream)
        logger = _logger(handler)
        for number in range(100):
            logger.warning("%d", number)
        handler.close()
    with os.fdopen(reading) as written:
        assert written.read().split() == [str(number) for number in range(100)]


def test_close_does_not_wait_for_ever() -> None:
    """Closing the log returns even if nobody reads it."""
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    handler = LogWriter(stream)
    logger = _logger(handler)
    for _ in range(3000):
        logger.warning("x" * 100)
    began = time.monotonic()
    handler.close()
    assert time.monotonic() - began < 10
    os.close(reading)  # ends the thread's write with EPIPE
    handler._thread.join(0.2)
    with suppress(BrokenPipeError):
        stream.close()
