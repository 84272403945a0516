"""The journal of names. Each move of a name is a sealed line of JSON, which is on disk before SQLite has the move.

A failed append is truncated. A kill or a power cut can tear the last line, which was then not acknowledged. The next
start truncates it. So a bad line anywhere else is damage: its line number is logged, the damaged file is moved to
`damaged/`, and the journal is rebuilt from its good lines and from SQLite's rows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from promptlogd.store.damaged import DamagedFolder
from promptlogd.store.disk import sync, write_all
from promptlogd.store.errors import StoreFailed, store_error
from promptlogd.store.holders import Visibility
from promptlogd.store.seal import seal, unseal

_log = logging.getLogger(__name__)

JOURNAL_FILE = "names.jsonl"
"""Name of the file in the state folder."""

_MOST_BYTES = 64 << 20
"""About 380,000 moves, which a start reads in about a second."""
_FOR_REMOVALS_BYTES = 1 << 20
"""Part of it that is reserved for removals, so that programs with names can still be removed."""
_MOVES_AT_ONCE = 100
"""Moves that are encoded at once: 0.5 ms. Then the event loop can get the interpreter's lock."""
_LOGGED_LINES = 10
"""Maximum number of bad lines that one log message names."""


class Move(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name was moved to this hash at this time. None: the name was removed with its program.

    `back`: number of earlier moves that this one undoes; 0 for an ordinary move. `uid`, `tenant`, `gid`, `visibility`:
    of the name's owner, who need not have moved it. None in moves before format version 3.
    """

    name: str
    hash: str | None
    at: float
    back: int = 0
    uid: int | None = None
    tenant: str | None = None
    gid: int | None = None
    visibility: Visibility | None = None


class Journal:
    """Owns `names.jsonl`. One thread at a time."""

    def __init__(self, state_dir: Path, damaged: DamagedFolder) -> None:
        self._path = state_dir / JOURNAL_FILE
        self._damaged = damaged
        self._end = 0
        """Length of the acknowledged part, in bytes. The next append truncates anything after it."""

    def load(self, rows: Sequence[Move]) -> list[Move]:
        """Return all moves, oldest first, and repair the journal from SQLite's rows.

        Raises StoreFailed if it is too large, OSError if it can't be read.
        """
        lines, bad, torn = self._read()
        merged = merge(rows, lines)
        lost = len(merged) - sum(line is not None for line in lines)
        if bad or lost:
            where = ", ".join(map(str, bad[:_LOGGED_LINES])) + (", ..." if len(bad) > _LOGGED_LINES else "")
            _log.error(
                "%s is damaged (%s): restored %d moves of names from SQLite; the damaged file is in damaged/",
                self._path,
                f"line {where}" if bad else "lines are missing",
                lost,
            )
            self.replace(merged, keep_old=True)
        elif torn:
            _log.warning("%s ended with %d bytes of an unfinished move; removed", self._path, torn)
            self._cut_file()
        return merged

    def _read(self) -> tuple[list[Move | None], list[int], int]:
        """Return the moves (None for a bad line), the numbers of the bad lines, and the size of a torn last line."""
        lines: list[Move | None] = []
        bad: list[int] = []
        self._end = 0
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return lines, bad, 0
        with open(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            if size > _MOST_BYTES:
                raise self._too_large(size)
            for number, line in enumerate(file, 1):
                try:
                    if line != b"\n":
                        lines.append(unseal(line.removesuffix(b"\n"), Move))
                except ValueError:
                    if not line.endswith(b"\n"):
                        return lines, bad, len(line)
                    lines.append(None)
                    bad.append(number)
                self._end += len(line)
        return lines, bad, 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._end

    def replace(self, moves: Iterable[Move], *, keep_old: bool = False) -> None:
        """Replace the journal by these moves, durably and atomically. Raises OSError.

        `keep_old`: move the old one to `damaged/`.
        """
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)
        size = 0
        remaining = iter(moves)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                while some := list(islice(remaining, _MOVES_AT_ONCE)):
                    data = _lines(some)
                    write_all(descriptor, data)
                    size += len(data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if keep_old and self._path.exists():
                self._damaged.link_in(self._path)
            new.rename(self._path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        self._end = size
        sync(self._path.parent)

    def append(self, moves: Sequence[Move], *, removal: bool = False) -> int:
        """Append moves atomically, and wait until they are on disk. Return the argument of `cut` that undoes this.

        Raises StoreFailed. Does not change SQLite.
        """
        before = self._end
        if not moves:
            return before
        data = _lines(moves)
        if before + len(data) > _MOST_BYTES - (0 if removal else _FOR_REMOVALS_BYTES):
            raise self._too_large(before)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            try:
                if os.fstat(descriptor).st_size > before:
                    os.ftruncate(descriptor, before)
                try:
                    write_all(descriptor, data)
                    os.fsync(descriptor)
                    if not before:
                        sync(self._path.parent)  # the file may be new
                except BaseException:
                    os.ftruncate(descriptor, before)
                    raise
                self._end = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
        except OSError as error:
            raise store_error("names can't be moved", error) from error
        return before

    def _too_large(self, size: int) -> StoreFailed:
        return StoreFailed(
            f"{self._path} has {size} bytes, the maximum is {_MOST_BYTES}: stop promptlogd, move this file and "
            "facts.sqlite3 away, and write the last line of each name to a new file. Run counts will be lost"
        )

    def cut(self, end: int) -> None:
        """Undo an append. If that fails, the next append does it."""
        self._end = end
        try:
            self._cut_file()
        except OSError as error:
            _log.error("can't remove an unacknowledged move from %s: %s", self._path, error)

    def _cut_file(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, self._end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lines(moves: Sequence[Move]) -> bytes:
    # The leading line feed terminates a torn last line.
    return b"".join(b"\n" + seal(move) + b"\n" for move in moves)


def merge(rows: Sequence[Move], lines: Sequence[Move | None]) -> list[Move]:
    """Return the journal's moves, with SQLite's rows instead of bad (None) or missing lines.

    Lines have checksums, rows have none. So if a good line and a row differ, the line is right.
    Takes O(n log n) time for n moves.
    """
    if list(rows) == list(lines):
        return list(rows)
    merged: list[Move] = []
    row_start = line_start = 0
    for row, line in (*_anchors(rows, lines), (len(rows), len(lines))):
        merged += _merge_gap(rows[row_start:row], lines[line_start:line])
        merged += rows[row : row + 1]
        row_start, line_start = row + 1, line + 1
    return merged


def _anchors(rows: Sequence[Move], lines: Sequence[Move | None]) -> list[tuple[int, int]]:
    """Return indexes (row, line) of equal moves, increasing in both.

    Only moves that occur equally often in rows and lines count, so that the first row matches the first line, and so
    on.
    """
    places: dict[Move, tuple[list[int], list[int]]] = {}
    for side, moves in enumerate((rows, lines)):
        for index, move in enumerate(moves):
            if move is not None:
                places.setdefault(move, ([], []))[side].append(index)
    pairs = sorted(
        pair
        for row_indexes, line_indexes in places.values()
        if len(row_indexes) == len(line_indexes)
        for pair in zip(line_indexes, row_indexes, strict=True)
    )
    anchors: list[tuple[int, int]] = []
    for line, row in pairs:
        if not anchors or row > anchors[-1][0]:
            anchors.append((row, line))
    return anchors


def _merge_gap(rows: Sequence[Move], lines: Sequence[Move | None]) -> list[Move]:
    """Merge the moves between two anchors."""
    head = _aligned(rows, lines)
    start, rows, lines = list(rows[:head]), rows[head:], lines[head:]
    end: list[Move] = []
    for row, line in zip(reversed(rows), reversed(lines), strict=False):
        if row != line:
            break
        end.append(row)
    rows, lines = rows[: len(rows) - len(end)], lines[: len(lines) - len(end)]
    good = [line for line in lines if line is not None]
    if not good:
        middle = list(rows)
    elif len(rows) == len(lines):
        middle = [row if line is None else line for row, line in zip(rows, lines, strict=True)]
    elif None in lines:
        bad = lines.index(None)
        middle = [*good[:bad], *rows, *good[bad:]]
    else:
        middle = good
    return start + middle + end[::-1]


def _aligned(rows: Sequence[Move], lines: Sequence[Move | None]) -> int:
    """Return the number of leading lines that match the rows at the same indexes. The last of them is a good line."""
    aligned = 0
    for index, (row, line) in enumerate(zip(rows, lines, strict=False)):
        if line == row:
            aligned = index + 1
        elif line is not None:
            break
    return aligned
