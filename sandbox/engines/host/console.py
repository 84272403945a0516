"""Console lines of one run: decodes them, maps positions in stacks to the program, and enforces the limits."""

from __future__ import annotations

import math
from typing import Protocol, get_args

from sandbox.engines.host.columns import Text
from sandbox.limits import Limits
from sandbox.outcome import LogLevel, LogLine
from sandbox.protocol.events import Log
from sandbox.protocol.frames import LINE_BYTES, LINE_TEXT_BYTES, SENT_PER_BYTE

_MAPPED_LINES = 160
"""Lines of stacks in one run's console that are mapped to the program: 1 ms of the loop. Further lines stay as the
engine wrote them, because a program can print any number of stacks."""

MOST_LINES = 32_768
"""Maximum number of console lines of one run. A reply with all of them takes 2 ms of the loop. Only a run that asks for
a log limit of more than 512 KiB can reach this."""

ENCODED_BYTES = 3 << 20
"""Maximum encoded size of all lines of a run. With a result of 4 MiB they fit into a frame of 8 MiB. Characters that
are slow to encode count more than their size, so that encoding takes at most 1.8 ms. See `_encoded_bytes`."""

_LINE_ENCODED_BYTES = 80
"""Counted for each line in addition to its text. A line adds only 32 bytes, but takes 55 ns."""

_ESCAPED = b'"\\\b\f\n\r\t'
_CONTROLS = bytes(byte for byte in range(32) if byte not in _ESCAPED)
_PLAIN = bytes(byte for byte in range(256) if byte not in _ESCAPED + _CONTROLS)
_ESCAPED_BYTES, _CONTROL_BYTES = 15, 25
"""Counted for a character that JSON escapes with two bytes (8.5 ns), and with six bytes (14 ns)."""

_COUNTED_BYTES = 64 * 1024
"""Bytes of a line whose encoded size is counted at once. Counting stops when the line no longer fits."""

_LINE_BYTES = 512
"""A line counts as one line for each of these bytes in `_MAPPED_LINES`. So a single line that fills the default log
limit is still mapped."""

_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)


class Stacks(Protocol):
    """Parses positions in an engine's notation: the module `stack` of that engine."""

    MAPPINGS: int
    """Number of line mappings of its stacks."""

    def position(self, stack: str, *, module: bool, source: Text) -> tuple[int | None, int | None]:
        """Return (line, column) of a syntax error."""

    def shown(self, stack: str, source_name: str, source: Text) -> tuple[str, int | None, int | None]:
        """Return the stack mapped to the submitted program, and the position of its first frame in the program."""

    def logged(self, text: str, source_name: str, source: Text, *, mapped: int) -> str:
        """Return a console line with its stacks mapped to the program. `mapped`: their line mapping."""


class Console:
    """Collects the console lines of one run."""

    def __init__(self, limits: Limits, stacks: Stacks, source_name: str, text: Text) -> None:
        self._left_bytes = limits.log_bytes
        self._left_sent = SENT_PER_BYTE * limits.log_bytes
        self._left_lines = MOST_LINES
        lines = min(MOST_LINES, limits.log_bytes // LINE_BYTES + 1)
        fits = _CONTROL_BYTES * limits.log_bytes + _LINE_ENCODED_BYTES * lines <= ENCODED_BYTES
        self._left_encoded = math.inf if fits else ENCODED_BYTES  # inf: within the log limit, all lines fit
        self._mapped_left = _MAPPED_LINES
        self._stacks = stacks
        self._source_name = source_name
        self._text = text
        self.truncated = False
        """Whether a line was cut or dropped."""

    def line(self, log: Log) -> LogLine | None:
        """Return the line, cut if it crosses the limit; None if the limit was crossed before."""
        if self._left_bytes <= 0 or self._left_lines <= 0 or self._left_sent <= 0:
            self.truncated = True
            return None
        self._left_lines -= 1
        self._left_sent -= len(log.text)
        body = log.text[:LINE_TEXT_BYTES]
        self.truncated = self.truncated or len(body) < len(log.text)
        if b"    at " in body and b"\n" in body and (lines := _lines_of(body)) <= self._mapped_left:
            self._mapped_left -= lines
            shown = self._stacks.logged(
                body.decode("utf-8", "ignore"), self._source_name, self._text, mapped=log.mapping
            )
            body = shown.encode()
        if len(body) > self._left_bytes:
            self.truncated = True
            body = body[: self._left_bytes]
        if self._left_encoded < math.inf:
            body = self._within_encoded(body)
        self._left_bytes -= len(body) + LINE_BYTES
        return LogLine(level=_LEVELS[log.level], text=body.decode("utf-8", "ignore"))

    def _within_encoded(self, body: bytes) -> bytes:
        """Count the encoded size of a line. Return the line, cut if it does not fit. A cut line is the last one."""
        self._left_encoded -= _LINE_ENCODED_BYTES
        fits = 0
        while self._left_encoded >= 0 and fits < len(body):
            encoded = _encoded_bytes(body[fits : fits + _COUNTED_BYTES])
            if encoded > self._left_encoded:
                fits += int(self._left_encoded) // _CONTROL_BYTES
                self._left_encoded = -1
            else:
                self._left_encoded -= encoded
                fits += _COUNTED_BYTES
        if self._left_encoded < 0:
            self.truncated = True
            self._left_lines = 0
            return body[:fits]
        return body


def _encoded_bytes(text: bytes) -> int:
    """Return the size that a part of a line counts, which is at least its encoded size."""
    escaped = text.translate(None, _PLAIN)
    controls = len(escaped.translate(None, _ESCAPED))
    return len(text) + (_ESCAPED_BYTES - 1) * (len(escaped) - controls) + (_CONTROL_BYTES - 1) * controls


def _lines_of(body: bytes) -> int:
    return body.count(b"\n") + len(body) // _LINE_BYTES
