"""A thread writes the lines of the log, so a reader that stops does not block the daemon."""

from __future__ import annotations

import logging
import os
import re
import select
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from promptlogd import log_writer
from promptlogd.log_writer import LogWriter
from tests.journald import fields_of


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
    lines = [line.partition("tests.log_writer: ")[2] for line in received.decode().splitlines()]
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
        lines = written.read().splitlines()
    assert [line.partition("tests.log_writer: ")[2] for line in lines] == [str(number) for number in range(100)]


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


def test_a_journald_that_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full socket of journald, lines are dropped and counted, and who logs does not wait."""
    monkeypatch.setattr(log_writer, "JOURNAL_SOCKET", str(tmp_path / "journal"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald, (tmp_path / "stderr").open("w") as stream:
        journald.bind(log_writer.JOURNAL_SOCKET)
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        handler = LogWriter(stream)
        logger = _logger(handler)
        began = time.monotonic()
        for number in range(5000):
            logger.warning("line %d", number)
        assert time.monotonic() - began < 5
        lines = []
        journald.settimeout(1)
        with suppress(TimeoutError):
            while True:
                lines.append(fields_of(journald.recv(65536))["MESSAGE"])
        logger.warning("last")
        lines.append(fields_of(journald.recv(65536))["MESSAGE"])
        handler.close()
    assert (tmp_path / "stderr").read_text() == ""
    numbers = [int(line.split()[1]) for line in lines[:-1]]
    assert numbers == sorted(numbers)
    assert 1000 <= len(numbers) < 5000
    dropped = [int(found[1]) for line in lines if (found := re.search(r"\((\d+) lines before it were dropped", line))]
    assert sum(dropped) == 5000 - len(numbers)
