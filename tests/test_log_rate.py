"""What can be caused again and again does not fill the log."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from promptlogd import log_rate
from promptlogd.log_rate import RateLimit


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger, and what it wrote."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(RateLimit())
    logger = logging.getLogger("tests.log_rate")
    logger.propagate = False
    logger.addHandler(handler)
    yield logger, written
    logger.removeHandler(handler)


def test_a_flood_is_cut_and_counted(log: tuple[logging.Logger, io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand lines of one text: a few are written; another text is; later, how many were dropped is."""
    logger, written = log
    now = [1000.0]
    monkeypatch.setattr(log_rate.time, "monotonic", lambda: now[0])
    for number in range(1000):
        logger.warning("client %d is gone", number)
    logger.warning("another")
    lines = written.getvalue().splitlines()
    assert lines == [*(f"client {number} is gone" for number in range(50)), "another"]
    now[0] += 1
    logger.warning("client %d is gone", 7)
    assert written.getvalue().splitlines()[-1] == "client 7 is gone (950 more like this were dropped before)"


def test_texts_without_end_are_not_remembered(log: tuple[logging.Logger, io.StringIO]) -> None:
    """A text that is made up for each line costs no memory."""
    logger, _ = log
    for number in range(2000):
        logger.warning(f"text {number}")
    (limit,) = logger.handlers[0].filters
    assert isinstance(limit, RateLimit)
    assert len(limit._buckets) <= 256
