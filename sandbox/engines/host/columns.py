"""A program's text, its lines and its columns: these as JavaScript counts, in UTF-16 code units. Both from 1. Pure.

What a program may ask for, by stacks that it makes up, is bounded: a place costs no pass over the text, and after a
while columns are left as the engine counts them.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from itertools import accumulate

_CHUNK_BYTES = 1024
_ASCII_GAIN = 8
_UTF8_BYTES = 4
"""The most bytes of one character."""

_WAYS = 4
"""Decoded, its tabs doubled, cut, encoded and counted: so many times the work of counting alone."""

_SEPARATORS = (b"\xe2\x80\xa8", b"\xe2\x80\xa9")
_LOOKED_AT_BYTES = 1 << 20
"""Of text that is decoded, for one run's places: 1 ms of the daemon's. ASCII takes an eighth of the time."""

_OTHER_ENDS_BYTES = 128 * 1024
"""A longer text is not searched for what ends a line to Deno alone, if it has any: to replace them takes 10 ms for each
MiB, and a text has up to two indexes. Lines of such a text are as Deno counts them."""

STACK_LINES = 300
"""Of one stack, so many lines are put in terms of the program: 2 ms of the daemon's. The rest stays as it came. Engines
keep ten frames for an error unless the program asks for more."""

FRAME_CHARACTERS = 2048
"""A longer line of a stack stays as it came: to match one of 256 KiB takes up to 3 ms."""


class Text:
    """A program's text as its author wrote it."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._left = _LOOKED_AT_BYTES

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return self._index.lines

    def end(self) -> tuple[int, int]:
        """Return the line and the column behind the last character."""
        start = self._source.rfind(b"\n") + 1
        return self.lines, self._units(start, len(self._source), len(self._source) - start) + 1

    def of_bytes(self, line: int, column: int) -> int:
        """Return the column of one that counts bytes; past the line's end: its end."""
        start = self._index.start(line)
        return self._units(start, min(start + column - 1, len(self._source)), column - 1) + 1

    def of_characters(self, line: int, column: int) -> int:
        """Return the column of one that counts characters, a tab for two; past the line's end: its end."""
        start = self._index.start(line)
        text = self._look(start, min(start + _UTF8_BYTES * (column - 1), len(self._source)), _WAYS)
        if text is None:
            return column
        before = text.decode("utf-8", "replace").replace("\t", "\t\t")[: column - 1]
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
        """Return how many UTF-16 code units stand here, up to the line's end."""
        text = self._look(start, end, 1)
        return otherwise if text is None else _units(text)

    def _look(self, start: int, end: int, ways: int) -> bytes | None:
        """Return what stands here, up to the line's end; None if too much was looked at. `ways`: how often."""
        found = self._source.find(b"\n", start, min(end, start + _ASCII_GAIN * max(self._left, 0)))
        end = end if found < 0 else found
        if end - start > _ASCII_GAIN * self._left:
            return None
        text = self._source[start:end]
        self._left -= ways * (len(text) // _ASCII_GAIN if text.isascii() else len(text))
        return text if self._left >= 0 else None

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
        if len(source) > _OTHER_ENDS_BYTES:
            return None
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
        self.lines = self._before[-1] + 1

    def line_at(self, offset: int) -> int:
        """Return the line of this byte."""
        chunk = offset // _CHUNK_BYTES
        return self._before[chunk] + self._text.count(b"\n", chunk * _CHUNK_BYTES, offset) + 1

    def start(self, line: int) -> int:
        """Return where a line begins; past the last one: the text's end. By bisection of a piece."""
        if line <= 1:
            return 0
        if line - 1 > self._before[-1]:
            return len(self._text)
        chunk = bisect_left(self._before, line - 1) - 1
        wanted, low = line - 1 - self._before[chunk], chunk * _CHUNK_BYTES
        high = low + _CHUNK_BYTES
        while high - low > 1:
            middle = (low + high) // 2
            found = self._text.count(b"\n", low, middle)
            if found < wanted:
                wanted, low = wanted - found, middle
            else:
                high = middle
        return high


def _units(text: bytes) -> int:
    return len(text) if text.isascii() else len(text.decode("utf-8", "replace").encode("utf-16-le")) // 2
