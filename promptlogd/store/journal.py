"""The journal of names. Each move of a name is a sealed line of JSON, and is on the disk before SQLite has it.

An append that fails is cut off again. A kill or a power cut can tear the last line, which was not acknowledged then:
the next start cuts it off. So a bad line anywhere else is damage. The log tells it with the line's number, `damaged/`
keeps the damaged file, and the journal is written anew from its good lines and from SQLite's rows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import msgspec

from promptlogd.store.damaged import DamagedFolder
from promptlogd.store.disk import sync, write_all
from promptlogd.store.errors import StoreFailed, failed
from promptlogd.store.ownership import check_file
from promptlogd.store.seal import seal, unseal

_log = logging.getLogger(__name__)

_MOST_BYTES = 64 << 20
"""Some 380,000 moves, which a start reads in about a second."""
_FOR_REMOVALS_BYTES = 1 << 20
"""Part of it that only removals may use, so that programs with names can still be removed."""
_TOLD = 10


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A name was put on this hash at this time; on None: it was taken off with its program.

    `back`: how many earlier moves this one undoes; 0 for a move to somewhere new.
    """

    name: str
    hash: str | None
    at: float
    back: int = 0


class Journal:
    """Owner of `names.jsonl`. One thread at a time."""

    def __init__(self, state_dir: Path, damaged: DamagedFolder) -> None:
        self._path = state_dir / "names.jsonl"
        self._damaged = damaged
        self._end = 0
        """Length of the acknowledged part, in bytes. The next append cuts off anything behind it."""

    def check(self) -> None:
        """Raise StoreUnsafe if there is something else than a file. Raises OSError."""
        check_file(self._path)

    def load(self, noted: Sequence[Move]) -> list[Move]:
        """Return all moves, oldest first, and mend the journal from those that SQLite has noted.

        Raises StoreFailed if it is too large, OSError if it can't be read.
        """
        lines, bad, torn = self._read()
        merged = merge(noted, lines)
        lost = len(merged) - sum(line is not None for line in lines)
        if bad or lost:
            where = ", ".join(map(str, bad[:_TOLD])) + (", ..." if len(bad) > _TOLD else "")
            _log.error(
                "%s is damaged (%s): %d moves of names come back from SQLite; the damaged file is in damaged/",
                self._path,
                f"line {where}" if bad else "lines are gone",
                lost,
            )
            self._write(merged)
        elif torn:
            _log.warning("%s ended in %d bytes of a move that was not acknowledged; they are cut off", self._path, torn)
            self._cut_file()
        return merged

    def _read(self) -> tuple[list[Move | None], list[int], int]:
        """Return the moves, None for a bad line; the numbers of the bad lines; and the size of a torn last one."""
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

    def _write(self, moves: Sequence[Move]) -> None:
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)
        data = _lines(moves)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if self._path.exists():
                self._damaged.copy(self._path)
            new.rename(self._path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        sync(self._path.parent)
        self._end = len(data)

    def append(self, moves: Sequence[Move], *, removal: bool = False) -> int:
        """Add moves, all or none, and wait until they are on the disk; return what `cut` takes to undo it.

        Raises StoreFailed. Does not touch SQLite.
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
            raise failed("names can't be moved", error) from error
        return before

    def _too_large(self, size: int) -> StoreFailed:
        return StoreFailed(
            f"{self._path} has {size} bytes, and {_MOST_BYTES} are the most: stop promptlogd, move this file and "
            "facts.sqlite3 away, and put the last line of each name into a new one. Counts of runs are lost"
        )

    def cut(self, end: int) -> None:
        """Take back an append. Where the disk refuses that, the next append does it."""
        self._end = end
        try:
            self._cut_file()
        except OSError as error:
            _log.error("a move of a name that was not acknowledged stays in %s: %s", self._path, error)

    def _cut_file(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, self._end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lines(moves: Sequence[Move]) -> bytes:
    # The line break at the front ends a last line that lacks its own.
    return b"".join(b"\n" + seal(move) + b"\n" for move in moves)


def merge(noted: Sequence[Move], lines: Sequence[Move | None]) -> list[Move]:
    """Return the journal's moves, with SQLite's rows in the place of lines that are bad (None) or missing.

    Lines have checksums, and rows have none: where a good line and a row differ, the line is right.
    """
    merged: list[Move] = []
    if list(noted) == list(lines):
        return list(noted)
    for tag, i, i_end, j, j_end in SequenceMatcher(None, noted, lines, autojunk=False).get_opcodes():
        rows, there = noted[i:i_end], lines[j:j_end]
        if tag == "delete":
            merged += rows
        elif len(rows) == len(there):
            merged += [row if line is None else line for row, line in zip(rows, there, strict=True)]
        else:
            bad = there.index(None) if None in there else len(there)
            merged += [line for line in there[:bad] if line is not None]
            merged += rows if None in there else []
            merged += [line for line in there[bad:] if line is not None]
    return merged
