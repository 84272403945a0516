"""The forms of a log line: what a program that reads the log can rely on."""

from __future__ import annotations

import json
import logging
import sys

from promptlogd.log_fields import about
from promptlogd.log_format import Entry, datagram, entry_of, file_line, journal_json_line, journal_line, json_line
from tests.journald import fields_of


def _entry(message: str, *arguments: object, **fields: str | int) -> Entry:
    extra = about("submit", uid=1000, **fields)  # type: ignore[arg-type]
    record = logging.getLogger("tests.log").makeRecord(
        "tests.log", logging.WARNING, __file__, 7, message, arguments, None, "function", extra
    )
    record.created = 1_700_000_000.5
    return entry_of(record)


def test_a_datagram_has_all_fields() -> None:
    """journald gets the message, its priority, where it was logged, and promptlog's own fields."""
    fields = fields_of(datagram(_entry("uid %d", 1000, hash="ab" * 32, engine="deno")))
    assert fields == {
        "MESSAGE": "uid 1000",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "promptlogd",
        "CODE_FILE": __file__,
        "CODE_LINE": "7",
        "CODE_FUNC": "function",
        "PROMPTLOG_LOGGER": "tests.log",
        "PROMPTLOG_EVENT": "submit",
        "PROMPTLOG_UID": "1000",
        "PROMPTLOG_HASH": "ab" * 32,
        "PROMPTLOG_ENGINE": "deno",
    }


def test_a_line_feed_starts_no_field() -> None:
    """A value with a line feed is sent with its length, so that a client's text can't pretend to be another field."""
    forged = "mine\nPROMPTLOG_UID=0\n\nMESSAGE=forged"
    data = datagram(_entry("one\ntwo", tenant=forged))
    assert b"PROMPTLOG_TENANT\n" + len(forged).to_bytes(8, "little") + forged.encode() + b"\n" in data
    fields = fields_of(data)
    assert (fields["PROMPTLOG_TENANT"], fields["PROMPTLOG_UID"], fields["MESSAGE"]) == (forged, "1000", "one\ntwo")


def test_json_lines() -> None:
    """A line is one JSON object with the time in UTC, whatever characters a value has."""
    line = json_line(_entry("one\ntwo", tenant='a"b\x1b\ud800'))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "warning",
        "logger": "tests.log",
        "message": "one\ntwo",
        "event": "submit",
        "uid": 1000,
        "tenant": 'a"b??',
    }
    assert journal_json_line(_entry("x")) == "<4>" + json_line(_entry("x"))


def test_lines_for_people() -> None:
    """A line is one line, with a date or with journald's priority, and without the fields."""
    entry = _entry("one\ntwo", tenant="t")
    assert journal_line(entry) == "<4>WARNING tests.log: one | two"
    assert file_line(entry).endswith("WARNING tests.log: one | two")
    assert file_line(entry).startswith("2023-11-1")


def test_a_traceback_is_part_of_the_message() -> None:
    """The message of an exception ends with its traceback, within the limit of a line."""
    try:
        raise ValueError("x" * 100_000)
    except ValueError:
        record = logging.LogRecord("tests", logging.ERROR, __file__, 1, "it failed", None, sys.exc_info())
    message = entry_of(record).message
    assert message.startswith("it failed\nTraceback")
    assert len(message) < 8100
    assert len(datagram(entry_of(record))) < 40_000
