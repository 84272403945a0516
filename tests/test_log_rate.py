"""Messages that can be triggered again and again do not fill the log."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator

import pytest

from promptlogd.log_rate import RateLimit, fit


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger, and the text that it wrote."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(RateLimit())
    logger = logging.getLogger("tests.log_rate")
    logger.propagate = False
    logger.addHandler(handler)
    yield logger, written
    logger.removeHandler(handler)


def test_a_flood_is_limited_and_counted(
    log: tuple[logging.Logger, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one log statement writes a thousand lines, only a few are written, and later the number of dropped ones."""
    logger, written = log
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def warn(number: int) -> None:
        logger.warning("client %d is gone", number)

    for number in range(1000):
        warn(number)
    logger.warning("another")
    lines = written.getvalue().splitlines()
    assert lines == [*(f"client {number} is gone" for number in range(50)), "another"]
    now[0] += 1
    warn(7)
    assert written.getvalue().splitlines()[-1] == "client 7 is gone (950 more like this were dropped before)"


def test_made_up_texts_share_a_rate(log: tuple[logging.Logger, io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate applies to a place in the code, whatever the text of a line is."""
    logger, written = log
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)  # on a busy machine, 2000 lines take a second or more
    for number in range(2000):
        logger.warning(f"text {number}")
    assert len(written.getvalue().splitlines()) == 50


def test_a_long_line_is_truncated() -> None:
    """A long line keeps its beginning and end, and the number of omitted characters; a short line stays complete."""
    assert fit("short") == "short"
    line = fit("begin" + "x" * 1_000_000 + "end")
    assert line.startswith("begin")
    assert line.endswith("end")
    assert "992008 characters omitted" in line
    assert len(line) < 8100


def test_terminal_escapes_are_replaced() -> None:
    """Escape characters in a line are replaced."""
    assert fit("a\x1b[2Jb\x9b\u00e9\n") == "a?[2Jb?\u00e9\n"
