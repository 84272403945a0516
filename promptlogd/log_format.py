"""The forms of a log line: a line for people, a line of JSON, and a datagram of journald's native protocol.

The native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. Field names: systemd.journal-fields(7).
"""

from __future__ import annotations

import logging
import struct
import time
import traceback
from collections.abc import Mapping

import msgspec

from promptlogd.log_rate import fit

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""syslog(3). In a line for the journal: sd-daemon(3)."""

_IDENTIFIER = "promptlogd"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the log."""

    at: float
    level: int
    logger: str
    message: str
    """The text, cut to its maximum length and without control characters. A traceback may contain line feeds."""
    fields: Mapping[str, str | int | float]
    """See log_fields.py."""
    file: str
    line: int
    function: str

    @property
    def priority(self) -> int:
        """The syslog level, from 2 (critical) to 7 (debug)."""
        return _PRIORITIES.get(self.level, _PRIORITIES[logging.INFO])


def entry_of(record: logging.LogRecord) -> Entry:
    """Return the event of a logging call."""
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
    return Entry(
        at=record.created,
        level=record.levelno,
        logger=record.name,
        message=fit(message),
        fields=getattr(record, "fields", {}),
        file=record.pathname,
        line=record.lineno,
        function=record.funcName or "",
    )


def terminal_line(entry: Entry) -> str:
    """Return the text for a terminal. A traceback has several lines."""
    level = logging.getLevelName(entry.level)
    return f"{time.strftime('%H:%M:%S', time.localtime(entry.at))} {level:<7} {entry.message}"


def file_line(entry: Entry) -> str:
    """Return one line with the date, for a file or a pipe."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S%z', time.localtime(entry.at))} {_undated(entry)}"


def journal_line(entry: Entry) -> str:
    """Return one line for journald on standard error: the priority as a prefix, no date (sd-daemon(3))."""
    return f"<{entry.priority}>{_undated(entry)}"


def json_line(entry: Entry) -> str:
    """Return a JSON object in one line. `time` is RFC 3339, in UTC."""
    seconds, ms = divmod(int(entry.at * 1000), 1000)
    head = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ms:03}Z",
        "level": logging.getLevelName(entry.level).lower(),
        "logger": entry.logger,
        "message": entry.message,
    }
    return msgspec.json.encode({**head, **_fitting(entry.fields)}).decode()


def journal_json_line(entry: Entry) -> str:
    """Return the line of JSON with the priority as a prefix, which journald removes."""
    return f"<{entry.priority}>{json_line(entry)}"


def datagram(entry: Entry) -> bytes:
    """Return the datagram for journald: promptlog's fields as PROMPTLOG_*, and where the event was logged as CODE_*.

    It has at most some 40 KB, and so fits into a socket's buffer (net.core.wmem_default, 212,992 by default).
    """
    fields: dict[str, object] = {
        "MESSAGE": entry.message,
        "PRIORITY": entry.priority,
        "SYSLOG_IDENTIFIER": _IDENTIFIER,
        "CODE_FILE": entry.file,
        "CODE_LINE": entry.line,
        "CODE_FUNC": entry.function,
        "PROMPTLOG_LOGGER": entry.logger,
    }
    fields |= {f"PROMPTLOG_{name.upper()}": value for name, value in _fitting(entry.fields).items()}
    return b"".join(_field(name, str(value)) for name, value in fields.items())


def _field(name: str, text: str) -> bytes:
    """Return a field. A value that has a line feed is preceded by its length, so that it can't start another field."""
    value = text.encode("utf-8", "replace")
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def _undated(entry: Entry) -> str:
    return f"{logging.getLevelName(entry.level)} {entry.logger}: {entry.message}".replace("\n", " | ")


def _fitting(fields: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    """Return the fields with texts within their length limit, and without control characters."""
    return {
        name: fit(value) if isinstance(value, str) else round(value, 3) if isinstance(value, float) else value
        for name, value in fields.items()
    }
