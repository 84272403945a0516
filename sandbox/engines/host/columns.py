"""A program's text, its lines and its columns: these as JavaScript counts, in UTF-16 code units. Both from 1. Pure.

What a program may ask for, by stacks that it makes up, is bounded: a place costs no pass over the text, and after a
while columns are left as the engine counts them.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from itertools import accumulate

_CHUNK_BYTES = 1024
_SEPARATORS = (b"\xe2\x80\xa8", b"\xe2\x80\xa9")
_COUNTED_BYTES = 4 << 20
"""Of text whose code units are counted, for one run's places; ASCII takes an eighth of the time."""


STACK_LINES = 1000
"""Of one stack, so many lines are put in terms of the program: 2 ms of the daemon's. The rest stays as it came."""


class Text:
    """A program's text as its author wrote it."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._left = _COUNTED_BYTES

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return self._index.line_at(len(self._source))

    def end(self) -> tuple[int, int]:
        """Return the line and the column behind the last character."""
        last = self._source[self._source.rfind(b"\n") + 1 :]
        return self.lines, _units(last) + 1

    def of_bytes(self, line: int, column: int) -> int:
        """Return the column of one that counts bytes; past the line's end: its end."""
        start = self._index.start(line)
        return self._units(start, min(start + column - 1, self._index.end(line)), column - 1) + 1

    def of_characters(self, line: int, column: int) -> int:
        """Return the column of one that counts characters, a tab for two; past the line's end: its end."""
        text = self._source[self._index.start(line) : self._index.end(line)].decode("utf-8", "replace")
        before = text.replace("\t", "\t\t")[: column - 1]
        tabs = before.count("\t")
        return _units(before.encode()) - tabs + (tabs + 1) // 2 + 1

    def of_deno(self, line: int, column: int, *, v8: bool) -> tuple[int, int]:
        """Return the line and the column of a place as Deno counts lines.

        To its parser, and in what it maps back, a lone carriage return ends one as well; to V8 two separators of
        Unicode's, too.
        """
        index = self._v8_index if v8 else self._swc_index
        if index is None or line < 1:
            return line, column
        start = index.start(line)
        own = self._index.line_at(start)
        return own, column + self._units(self._index.start(own), start, 0)

    def _units(self, start: int, end: int, otherwise: int) -> int:
        if self._left < 0:
            return otherwise
        text = self._source[start:end]
        self._left -= len(text) // 8 if text.isascii() else len(text)
        return _units(text)

    @cached_property
    def _index(self) -> _Index:
        return _Index(self._source)

    @cached_property
    def _swc_index(self) -> _Index | None:
        return self._with_ends(())

    @cached_property
    def _v8_index(self) -> _Index | None:
        return self._with_ends(_SEPARATORS)

    def _with_ends(self, separators: tuple[bytes, ...]) -> _Index | None:
        """Return an index of lines that these, and lone carriage returns, end as well; None if there are none."""
        source = self._source
        if source.count(b"\r") == source.count(b"\r\n") and not any(end in source for end in separators):
            return None
        source = source.replace(b"\r\n", b" \n").replace(b"\r", b"\n")
        for separator in separators:
            source = source.replace(separator, b"  \n")
        return _Index(source)


class _Index:
    """Where the lines of a text begin that line feeds end."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        counts = (text.count(b"\n", at, at + _CHUNK_BYTES) for at in range(0, len(text), _CHUNK_BYTES))
        self._before = [0, *accumulate(counts)]
        """How many line feeds there are before each piece of the text."""

    def line_at(self, offset: int) -> int:
        """Return the line of this byte."""
        chunk = offset // _CHUNK_BYTES
        return self._before[chunk] + self._text.count(b"\n", chunk * _CHUNK_BYTES, offset) + 1

    def start(self, line: int) -> int:
        """Return where a line begins; past the last one: the text's end."""
        if line <= 1:
            return 0
        if line - 1 > self._before[-1]:
            return len(self._text)
        chunk = bisect_left(self._before, line - 1) - 1
        at = chunk * _CHUNK_BYTES
        for _ in range(line - 1 - self._before[chunk]):
            at = self._text.index(b"\n", at) + 1
        return at

    def end(self, line: int) -> int:
        """Return where a line ends, before its line feed."""
        found = self._text.find(b"\n", self.start(line))
        return len(self._text) if found < 0 else found


def _units(text: bytes) -> int:
    return len(text) if text.isascii() else len(text.decode("utf-8", "replace").encode("utf-16-le")) // 2
