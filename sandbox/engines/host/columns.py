"""Converts lines and columns of a program's text to those of JavaScript: UTF-16 code units, starting at 1. Pure.

A program can print invented stacks, so the work for them is bounded. Looking up a position does not scan the whole
text. Once a budget is used up, columns stay as the engine counts them.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from itertools import accumulate

_CHUNK_BYTES = 1024
"""Size of the chunks of the text. The index has the number of line feeds before each chunk."""

_STEP_BYTES = 16 * 1024
"""Text that is added to the index at once."""

_HALVES = (512, 256, 128)
"""Sizes of the steps that bisect a chunk to find a line. The last part is split into lines."""

_COUNT_GAIN = 2
"""Counting line feeds is this many times faster than decoding text."""

_SEARCH_GAIN = 64
"""Searching for the end of a line is this many times faster than decoding text."""

_ASCII_GAIN = 8
"""Decoding ASCII is this many times faster than decoding other text."""

_UTF8_BYTES = 4
"""Maximum number of bytes of one character."""

_PASSES = 4
"""Cost of a column in characters (decode, double tabs, cut, encode), relative to a column in bytes."""

_TAB_COST = 20
"""Cost of a doubled tab in the same unit: a line of 1 MiB of tabs takes 20 ms."""

_SEPARATORS = (b"\xe2\x80\xa8", b"\xe2\x80\xa9")
_RETURNS = bytes.maketrans(b"\r", b"\n")
_BUDGET_BYTES = 768 * 1024
"""Bytes of text that are decoded for the positions of one run: 1 ms of the loop. ASCII counts an eighth. Counting line
feeds counts a half: 1.3 ms for 1.5 MiB, so 0.9 ms for a whole text of 1 MiB."""

_OTHER_ENDS_BYTES = 64 * 1024
"""A longer text is not searched for characters that end a line only for Deno: a lone carriage return, U+2028, U+2029.
Replacing them takes up to 0.6 ms, and a text has up to two indexes. Lines of a longer text stay as Deno counts them."""

STACK_LINES = 100
"""Lines of one stack that are mapped to the program: 0.6 ms of the loop, without the work on the text, which has its
own budget. Other lines stay unchanged. Engines keep ten frames for an error unless the program asks for more."""

FRAME_CHARACTERS = 2048
"""A longer line of a stack stays unchanged."""

_PLACE_CHARACTERS = 64
"""Upper bound of the length of a frame's position."""


_ENDS = (" {", ",")


def split_end(line: str) -> tuple[str, str]:
    """Return a line of a stack without what the console puts behind an error's last frame, and that, if anything."""
    for end in _ENDS:
        if line.endswith(end):
            return line[: -len(end)], end
    return line, ""


def indent_of(line: str) -> str:
    """Return the spaces before a line."""
    return line[: len(line) - len(line.lstrip(" "))]


def split_frame(line: str) -> tuple[str | None, str] | None:
    """Return (function or None, position) of a frame; None if the line is not a frame.

    This uses no regular expression, because matching would take quadratic time: the program can choose a function name
    with many parentheses.
    """
    if len(line) > FRAME_CHARACTERS:
        return None
    at = line.find("at ")
    if at < 0 or line[:at] != " " * at:
        return None
    function, named, place = line[at + len("at ") :].rpartition(" (")
    if len(place) > _PLACE_CHARACTERS:
        return None
    return function if named else None, place


class _Budget:
    """The remaining budget for work on a text."""

    def __init__(self) -> None:
        self.left = _BUDGET_BYTES
        """Bytes of text that may still be decoded. Below zero: none."""


class Text:
    """A program's text as submitted."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._budget = _Budget()

    def has_line(self, line: int) -> bool:
        """Whether this line exists. Over the budget, every line from 1 counts as existing."""
        return line >= 1 and self._index.has(line) is not False

    def end(self) -> tuple[int, int] | None:
        """Return (line, column) after the last character; None over the budget."""
        line, start = self._index.last(), self._source.rfind(b"\n") + 1
        if line is None:
            return None
        return line, self._units(start, len(self._source), len(self._source) - start) + 1

    def of_bytes(self, line: int, column: int) -> int:
        """Convert a column in bytes. A column past the end of the line becomes its end."""
        start = self._index.start(line)
        if start is None:
            return column
        return self._units(start, min(start + column - 1, len(self._source)), column - 1) + 1

    def of_characters(self, line: int, column: int) -> int:
        """Convert a column in characters (a tab counts as two). A column past the end of the line becomes its end."""
        start = self._index.start(line)
        if start is None:
            return column
        text = self._look(start, min(start + _UTF8_BYTES * (column - 1), len(self._source)), _PASSES)
        if text is None:
            return column
        self._budget.left -= _TAB_COST * text.count(b"\t")
        if self._budget.left < 0:
            return column
        before = text.decode("utf-8", "replace").replace("\t", "\t\t")[: column - 1]
        tabs = before.count("\t")
        return _units(before.encode()) - tabs + (tabs + 1) // 2 + 1

    def of_quickjs(self, line: int, column: int) -> tuple[int, int]:
        """Convert (line, column) of QuickJS, whose columns are in bytes.

        A lone carriage return, U+2028 and U+2029 also end its lines.
        """
        index = self._v8_index
        if index is None or line < 1:
            return line, self.of_bytes(line, column)
        start = index.start(line)
        own = None if start is None else self._index.line_at(start)
        first = None if own is None else self._index.start(own)
        if start is None or own is None or first is None:
            return line, column
        return own, self._units(first, min(start + column - 1, len(self._source)), column - 1) + 1

    def of_deno(self, line: int, column: int, *, v8: bool) -> tuple[int, int]:
        """Convert (line, column) of Deno.

        For its parser and source maps, a lone carriage return also ends a line. For V8, so do U+2028 and U+2029.
        """
        index = self._v8_index if v8 else self._swc_index
        if index is None or line < 1:
            return line, column
        start = index.start(line)
        own = None if start is None else self._index.line_at(start)
        first = None if own is None else self._index.start(own)
        if start is None or own is None or first is None:
            return line, column
        return own, column + self._units(first, start, 0)

    def _units(self, start: int, end: int, otherwise: int) -> int:
        """Return the number of UTF-16 code units of a range, up to the line's end; `otherwise` over the budget."""
        text = self._look(start, end, 1)
        return otherwise if text is None else _units(text)

    def _look(self, start: int, end: int, passes: int) -> bytes | None:
        """Return the bytes of a range, up to the end of the line; None over the budget. `passes`: cost factor."""
        most = _ASCII_GAIN * max(self._budget.left, 0)
        found = self._source.find(b"\n", start, min(end, start + most))
        end = end if found < 0 else found
        if end - start > most:
            self._budget.left -= most // _SEARCH_GAIN
            return None
        text = self._source[start:end]
        self._budget.left -= passes * (len(text) // _ASCII_GAIN if text.isascii() else len(text))
        return text if self._budget.left >= 0 else None

    @cached_property
    def _index(self) -> _Index:
        return _Index(self._source, self._budget)

    @cached_property
    def _swc_index(self) -> _Index | None:
        return self._with_ends(())

    @cached_property
    def _v8_index(self) -> _Index | None:
        return self._with_ends(_SEPARATORS)

    def _with_ends(self, separators: tuple[bytes, ...]) -> _Index | None:
        """Return an index in which these separators and lone carriage returns also end lines; None if the text has
        none."""
        source = self._source
        if len(source) > _OTHER_ENDS_BYTES:
            return None
        if source.count(b"\r") == source.count(b"\r\n") and not any(end in source for end in separators):
            return None
        source = source.replace(b"\r\n", b" \n").translate(_RETURNS)
        for separator in separators:
            source = source.replace(separator, b"  \n")
        return _Index(source, self._budget)


class _Index:
    """An index of the starts of lines, which end with line feeds. It reads the text only up to the requested line."""

    def __init__(self, text: bytes, budget: _Budget) -> None:
        self._text = text
        self._budget = budget
        self._before = [0]
        """Number of line feeds before each chunk read so far, and before the rest of the text."""

    def line_at(self, offset: int) -> int | None:
        """Return the line of this byte; None over the budget."""
        chunk = offset // _CHUNK_BYTES
        while len(self._before) <= chunk:
            if not self._read_on():
                return None
        return self._before[chunk] + self._text.count(b"\n", chunk * _CHUNK_BYTES, offset) + 1

    def has(self, line: int) -> bool | None:
        """Whether this line exists; None over the budget."""
        while self._before[-1] < line - 1:
            if not self._rest:
                return False
            if not self._read_on():
                return None
        return True

    def last(self) -> int | None:
        """Return the number of the last line; None over the budget."""
        while self._rest:
            if not self._read_on():
                return None
        return self._before[-1] + 1

    def start(self, line: int) -> int | None:
        """Return the offset of a line; past the last line, the end of the text. None over the budget."""
        if line <= 1:
            return 0
        if not (has := self.has(line)):
            return None if has is None else len(self._text)
        text, before = self._text, self._before
        chunk = bisect_left(before, line - 1) - 1
        wanted, low = line - 1 - before[chunk], chunk * _CHUNK_BYTES
        for size in _HALVES:
            found = text.count(b"\n", low, low + size)
            if found < wanted:
                wanted -= found
                low += size
        part = text[low : low + _HALVES[-1]]
        return low + len(part) - len(part.split(b"\n", wanted)[-1])

    @property
    def _rest(self) -> bool:
        """Whether a part of the text was not read yet."""
        return (len(self._before) - 1) * _CHUNK_BYTES < len(self._text)

    def _read_on(self) -> bool:
        """Read more of the text. Return whether the budget allowed it."""
        if self._budget.left < _STEP_BYTES // _COUNT_GAIN:
            return False
        self._budget.left -= _STEP_BYTES // _COUNT_GAIN
        text, before = self._text, self._before
        first = (len(before) - 1) * _CHUNK_BYTES
        counts = [
            text.count(b"\n", at, at + _CHUNK_BYTES)
            for at in range(first, min(first + _STEP_BYTES, len(text)), _CHUNK_BYTES)
        ]
        before += accumulate(counts[1:], initial=before[-1] + counts[0])
        return True


def _units(text: bytes) -> int:
    return len(text) if text.isascii() else len(text.decode("utf-8", "replace").encode("utf-16-le")) // 2
