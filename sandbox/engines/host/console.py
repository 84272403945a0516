"""Console lines of one run: bytes of the process in, lines with the program's own places out, under a cap."""

from __future__ import annotations

import math
from typing import Protocol, get_args

from sandbox.engines.host.columns import Text
from sandbox.limits import Limits
from sandbox.outcome import LogLevel, LogLine
from sandbox.protocol.events import Log
from sandbox.protocol.frames import LINE_BYTES, LINE_TEXT_BYTES, SENT_PER_BYTE

_MAPPED_LINES = 160
"""Lines of stacks in one run's console that are mapped to the program: 1 ms of the loop. Other lines stay as the
engine wrote them: a program can print any number of stacks."""

MOST_LINES = 32_768
"""Console lines of one run: a reply with all of them takes 2 ms of the loop. Only a run that asks for more than 512 KiB
of log can reach this."""

ENCODED_BYTES = 3 << 20
"""All lines of a run when encoded: they and a result of 4 MiB fit into a frame of 8 MiB. What takes long to encode
counts more than its size, so that encoding takes 1.8 ms at the most. See `_encoded_bytes`."""

_LINE_ENCODED_BYTES = 80
"""Counted for one line beside its text: 32 bytes, but 55 ns."""

_ESCAPED = b'"\\\b\f\n\r\t'
_CONTROLS = bytes(byte for byte in range(32) if byte not in _ESCAPED)
_PLAIN = bytes(byte for byte in range(256) if byte not in _ESCAPED + _CONTROLS)
_ESCAPED_BYTES, _CONTROL_BYTES = 15, 25
"""Counted for a character that JSON escapes with two bytes, which takes 8.5 ns, and with six, which takes 14 ns."""

_COUNTED_BYTES = 64 * 1024
"""Bytes of a line whose encoded size is counted in one go: a line is not counted beyond what fits."""

_LINE_BYTES = 512
"""A longer line counts as one line for each of these in `_MAPPED_LINES`. So a line of the default limit of all lines
has its stack mapped."""

_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)


class Stacks(Protocol):
    """Reads an engine's notation of places: the module `stack` of that engine."""

    MAPPINGS: int
    """Number of ways in which its stacks count lines."""

    def position(self, stack: str, *, module: bool, source: Text) -> tuple[int | None, int | None]:
        """Return (line, column) of a syntax error."""

    def shown(self, stack: str, source_name: str, source: Text) -> tuple[str, int | None, int | None]:
        """Return the stack in terms of the program as submitted, and the place of its first frame there."""

    def logged(self, text: str, source_name: str, source: Text, *, mapped: int) -> str:
        """Return a console line with the stacks in it in terms of the program. `mapped`: how they count lines."""


class Console:
    """Collects the console lines of one run."""

    def __init__(self, limits: Limits, stacks: Stacks, source_name: str, text: Text) -> None:
        self._left_bytes = limits.log_bytes
        self._left_sent = SENT_PER_BYTE * limits.log_bytes
        self._left_lines = MOST_LINES
        lines = min(MOST_LINES, limits.log_bytes // LINE_BYTES + 1)
        fits = _CONTROL_BYTES * limits.log_bytes + _LINE_ENCODED_BYTES * lines <= ENCODED_BYTES
        self._left_encoded = math.inf if fits else ENCODED_BYTES  # inf: the log limit alone makes all lines fit
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
        """Count the encoded size of a line; return the line, cut if it does not fit. A cut line is the last one."""
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
    """Return what a part of a line counts: its encoded size at least."""
    escaped = text.translate(None, _PLAIN)
    controls = len(escaped.translate(None, _ESCAPED))
    return len(text) + (_ESCAPED_BYTES - 1) * (len(escaped) - controls) + (_CONTROL_BYTES - 1) * controls


def _lines_of(body: bytes) -> int:
    return body.count(b"\n") + len(body) // _LINE_BYTES
