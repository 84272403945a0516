"""A program's text, its lines, and its columns in UTF-16 code units, as JavaScript counts. Both count from 1. Pure.

A program can print made-up stacks, so the work for them is bounded. A place takes no pass over the text. Once a budget
is used up, columns stay as the engine counts them.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from itertools import accumulate

_CHUNK_BYTES = 1024
"""The index has the number of line feeds before each chunk of the text."""

_ASCII_GAIN = 8
"""How many times faster ASCII is decoded than other text."""

_UTF8_BYTES = 4
"""Most bytes of one character."""

_PASSES = 4
"""Cost of a column in characters, which decodes, doubles tabs, cuts and encodes, in terms of a column in bytes."""

_TAB = 20
"""Cost of a tab that is doubled, in the same terms: a line of 1 MiB of tabs takes 20 ms."""

_SEPARATORS = (b"\xe2\x80\xa8", b"\xe2\x80\xa9")
_BUDGET_BYTES = 1 << 20
"""Bytes of text that are decoded for the places of one run: 1 ms of the loop. ASCII counts an eighth."""

_OTHER_ENDS_BYTES = 128 * 1024
"""A longer text is not searched for characters that end a line for Deno only: a lone carriage return, U+2028, U+2029.
Replacing them takes 10 ms for each MiB, and a text has up to two indexes. Lines of such a text stay as Deno counts
them."""

STACK_LINES = 300
"""Lines of one stack that are mapped to the program: 2 ms of the loop. Other lines stay as they came. Engines keep ten
frames for an error unless the program asks for more."""

FRAME_CHARACTERS = 2048
"""A longer line of a stack stays as it came: matching one of 256 KiB takes up to 3 ms."""


class Text:
    """A program's text as its author wrote it."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._left = _BUDGET_BYTES

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return self._index.lines

    def end(self) -> tuple[int, int]:
        """Return the line and the column after the last character."""
        start = self._source.rfind(b"\n") + 1
        return self.lines, self._units(start, len(self._source), len(self._source) - start) + 1

    def of_bytes(self, line: int, column: int) -> int:
        """Return the column for one that counts bytes. One past the end of the line counts as its end."""
        start = self._index.start(line)
        return self._units(start, min(start + column - 1, len(self._source)), column - 1) + 1

    def of_characters(self, line: int, column: int) -> int:
        """Return the column for one that counts characters, a tab as two. One past the line's end counts as its end."""
        start = self._index.start(line)
        text = self._look(start, min(start + _UTF8_BYTES * (column - 1), len(self._source)), _PASSES)
        if text is None:
            return column
        self._left -= _TAB * text.count(b"\t")
        if self._left < 0:
            return column
        before = text.decode("utf-8", "replace").replace("\t", "\t\t")[: column - 1]
        tabs = before.count("\t")
        return _units(before.encode()) - tabs + (tabs + 1) // 2 + 1

    def of_deno(self, line: int, column: int, *, v8: bool) -> tuple[int, int]:
        """Return the line and the column of a place as Deno counts lines.

        For its parser and source maps, a lone carriage return ends a line as well. For V8, so do U+2028 and U+2029.
        """
        index = self._v8_index if v8 else self._swc_index
        if index is None or line < 1:
            return line, column
        start = index.start(line)
        own = self._index.line_at(start)
        return own, column + self._units(self._index.start(own), start, 0)

    def _units(self, start: int, end: int, otherwise: int) -> int:
        """Return the number of UTF-16 code units of a range, up to the line's end; `otherwise` over the budget."""
        text = self._look(start, end, 1)
        return otherwise if text is None else _units(text)

    def _look(self, start: int, end: int, passes: int) -> bytes | None:
        """Return the text of a range, up to the end of the line; None over the budget. `passes`: its cost."""
        found = self._source.find(b"\n", start, min(end, start + _ASCII_GAIN * max(self._left, 0)))
        end = end if found < 0 else found
        if end - start > _ASCII_GAIN * self._left:
            return None
        text = self._source[start:end]
        self._left -= passes * (len(text) // _ASCII_GAIN if text.isascii() else len(text))
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
        """Return an index in which these separators and lone carriage returns end lines; None if the text has none."""
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
    """Where each line of a text begins, if line feeds end lines."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        counts = (text.count(b"\n", at, at + _CHUNK_BYTES) for at in range(0, len(text), _CHUNK_BYTES))
        self._before = [0, *accumulate(counts)]
        """Number of line feeds before each chunk of the text."""
        self.lines = self._before[-1] + 1

    def line_at(self, offset: int) -> int:
        """Return the line of this byte."""
        chunk = offset // _CHUNK_BYTES
        return self._before[chunk] + self._text.count(b"\n", chunk * _CHUNK_BYTES, offset) + 1

    def start(self, line: int) -> int:
        """Return where a line begins; past the last line, the end of the text. Bisects the chunk."""
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
