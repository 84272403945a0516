"""Columns as JavaScript counts text, in UTF-16 code units, made of an engine's own count. All count from 1. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection


def of_bytes(source: bytes, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Return the column of each (line, column) of which the column counts bytes; past a line's end: its end.

    In one pass over the source, however many places a program claims to have in its stack.
    """
    lines = source.split(b"\n", max((line for line, _ in places), default=0))
    columns: dict[tuple[int, int], int] = {}
    current = at = units = 0
    for line, column in sorted(places):
        if line != current:
            current, at, units = line, 0, 0
        text = lines[line - 1] if line <= len(lines) else b""
        end = max(at, min(column - 1, len(text)))
        units += _units(text[at:end].decode("utf-8", "ignore"))
        at = end
        columns[line, column] = units + 1
    return columns


def of_characters(source: bytes, line: int, column: int) -> int:
    """Return the column of one that counts characters, a tab for two; past the line's end: its end."""
    lines = source.split(b"\n", line)
    text = lines[line - 1].decode("utf-8", "replace") if line <= len(lines) else ""
    before = text.replace("\t", "\t\t")[: column - 1]
    return _units(before) - before.count("\t") + (before.count("\t") + 1) // 2 + 1


def end(source: bytes) -> tuple[int, int]:
    """Return the line and the column behind a program's last character."""
    last = source[source.rfind(b"\n") + 1 :]
    return source.count(b"\n") + 1, _units(last.decode("utf-8", "replace")) + 1


_ENDS = re.compile("\r\n|[\n\r]")
_V8_ENDS = re.compile("\r\n|[\n\r\u2028\u2029]")
_UNUSUAL_ENDS = re.compile(b"\r(?!\n)|\xe2\x80[\xa8\xa9]")


class Lines:
    """A source's lines, each of which ends with a line feed, found by how Deno counts them.

    To its parser, and in what it maps back, a lone carriage return ends one as well; to V8 Unicode's separators, too.
    """

    def __init__(self, source: bytes, *, v8: bool) -> None:
        self.count = source.count(b"\n") + 1
        self._starts: list[tuple[int, int]] | None = None
        if _UNUSUAL_ENDS.search(source):
            text = source.decode("utf-8", "replace")
            self._starts = [(1, 0)]
            line, begins = 1, 0
            for ended in (_V8_ENDS if v8 else _ENDS).finditer(text):
                if ended.group().endswith("\n"):
                    line, begins = line + 1, ended.end()
                self._starts.append((line, _units(text[begins : ended.end()])))

    def place(self, line: int, column: int) -> tuple[int, int]:
        """Return the line and the column, both from 1, of a place there."""
        if self._starts is None or not 1 <= line <= len(self._starts):
            return line, column
        own, before = self._starts[line - 1]
        return own, column + before


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
