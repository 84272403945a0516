"""Console lines of one run: bytes of the process in, lines in the program's own terms out, under a cap."""

from __future__ import annotations

from typing import Protocol, get_args

from sandbox.engines.host.columns import Text
from sandbox.limits import Limits
from sandbox.outcome import LogLevel, LogLine
from sandbox.protocol.events import Log
from sandbox.protocol.frames import LINE_BYTES

_MAPPED_LINES = 500
"""Of a run's console lines with stacks in them, so many lines of text are put in the program's terms: 2 ms of the
daemon's. The rest stays as the engine wrote it: a program can print any number of stacks."""

MOST_LINES = 32_768
"""Of one run, so many lines are kept: a reply with them takes 2 ms of the daemon's. Only a run that asks for more than
512 KiB of log can have more."""

_LINE_BYTES = 256
"""So much of a long line counts as one."""

_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)


class Stacks(Protocol):
    """Reads an engine's notation of places: the module `stack` of that engine."""

    MAPPINGS: int
    """In how many ways its stacks count lines."""

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
        self._left_lines = MOST_LINES
        self._mapped_left = _MAPPED_LINES
        self._stacks = stacks
        self._source_name = source_name
        self._text = text
        self.truncated = False
        """Whether a line was cut or dropped."""

    def line(self, log: Log) -> LogLine | None:
        """Return the line, cut if it crosses the limit; None if the limit was crossed before."""
        if self._left_bytes <= 0 or self._left_lines <= 0:
            self.truncated = True
            return None
        body = log.text
        if b"\n    at " in body and (lines := _lines_of(body)) <= self._mapped_left:
            self._mapped_left -= lines
            shown = self._stacks.logged(
                body.decode("utf-8", "ignore"), self._source_name, self._text, mapped=log.mapping
            )
            body = shown.encode()
        if len(body) > self._left_bytes:
            self.truncated = True
            body = body[: self._left_bytes]
        self._left_bytes -= len(body) + LINE_BYTES
        self._left_lines -= 1
        return LogLine(level=_LEVELS[log.level], text=body.decode("utf-8", "ignore"))


def _lines_of(body: bytes) -> int:
    return body.count(b"\n") + len(body) // _LINE_BYTES
