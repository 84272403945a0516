"""Queries of `facts.sqlite3` while the daemon serves. Each uses an index, and returns a bounded number of rows.

The exceptions are `unused`, `count`, `source_bytes`, `count_names` and `moves`, which scan an index or a table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec

from promptlogd.store.journal import Move
from sandbox.program import Engine, Language


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about one program. Times are seconds since the epoch."""

    hash: str
    size: int
    created_at: float
    created_by: int
    engine: Engine
    language: Language
    runs: int
    last_run_at: float | None

    @property
    def used_at(self) -> float:
        """When it was last run, or submitted if that was later."""
        return max(self.created_at, self.last_run_at or 0.0)


class Lookups:
    """Queries on a connection that only the caller uses."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def get(self, hash: str) -> Fact | None:
        """Return the facts about one program; None if there is no row."""
        row = self._db.execute(f"{_SELECT} WHERE hash = ?", (hash,)).fetchone()
        return None if row is None else _fact(row)

    def newest(self, limit: int, after: tuple[float, str] | None) -> list[Fact]:
        """Return programs, newest first, that follow this (created_at, hash)."""
        if after is None:
            rows = self._db.execute(f"{_SELECT} ORDER BY created_at DESC, hash LIMIT ?", (limit,)).fetchall()
        else:
            # Two queries, because SQLite does not use the index for a disjunction of conditions.
            at, hash = after
            same = f"{_SELECT} WHERE created_at = ? AND hash > ? ORDER BY hash LIMIT ?"
            older = f"{_SELECT} WHERE created_at < ? ORDER BY created_at DESC, hash LIMIT ?"
            rows = self._db.execute(same, (at, hash, limit)).fetchall()
            rows += self._db.execute(older, (at, limit - len(rows))).fetchall()
        return [_fact(row) for row in rows]

    def unused(self, before: float, limit: int, after: tuple[float, str] | None) -> list[Fact]:
        """Return programs without names that were not used since `before`, the longest unused first. Scans all."""
        used = "max(created_at, ifnull(last_run_at, 0.0))"
        rows = self._db.execute(
            f"{_SELECT} WHERE {used} <= ? AND ({used}, hash) > (?, ?) "
            f"AND NOT EXISTS (SELECT 1 FROM names WHERE names.hash = programs.hash) ORDER BY {used}, hash LIMIT ?",
            (before, *(after or (float("-inf"), "")), limit),
        )
        return [_fact(row) for row in rows]

    def count(self) -> int:
        """Return the number of programs. Takes 2 ms for 100,000."""
        return int(self._db.execute("SELECT count(*) FROM programs").fetchone()[0])

    def source_bytes(self) -> int:
        """Return the size of the sources of all programs."""
        return int(self._db.execute("SELECT total(size) FROM programs").fetchone()[0])

    def with_prefix(self, prefix: str, limit: int) -> list[str]:
        """Return hashes with this prefix."""
        rows = self._db.execute(
            "SELECT hash FROM programs WHERE hash >= ? AND hash < ? ORDER BY hash LIMIT ?",
            (prefix, prefix + "g", limit),
        )
        return [row[0] for row in rows]

    def oldest_with_prefix(self, prefix: str) -> str:
        """Return the hash of the oldest program with this prefix. There must be one."""
        row = self._db.execute(
            "SELECT hash, min(created_at) FROM programs WHERE hash >= ? AND hash < ?", (prefix, prefix + "g")
        ).fetchone()
        return str(row[0])

    def named(self, name: str) -> str | None:
        """Return the hash that a name refers to."""
        row = self._db.execute("SELECT hash FROM names WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def names_on(self, hash: str, limit: int = -1) -> list[str]:
        """Return the names of a hash in alphabetical order: the first `limit`, or all."""
        rows = self._db.execute("SELECT name FROM names WHERE hash = ? ORDER BY name LIMIT ?", (hash, limit))
        return [row[0] for row in rows]

    def count_names_on(self, hash: str) -> int:
        """Return the number of names of a hash."""
        return int(self._db.execute("SELECT count(*) FROM names WHERE hash = ?", (hash,)).fetchone()[0])

    def count_names(self) -> int:
        """Return the number of all names. Takes 3 ms for 100,000."""
        return int(self._db.execute("SELECT count(*) FROM names").fetchone()[0])

    def history(self, name: str, limit: int = -1) -> list[Move]:
        """Return the moves of a name, oldest first: its newest `limit` moves, or all."""
        rows = self._db.execute(
            "SELECT name, hash, at, back FROM moves WHERE name = ? ORDER BY number DESC LIMIT ?", (name, limit)
        ).fetchall()
        return [Move(name=row[0], hash=row[1], at=row[2], back=row[3]) for row in reversed(rows)]

    def moves(self) -> Iterator[Move]:
        """Yield all moves, oldest first."""
        for row in self._db.execute("SELECT name, hash, at, back FROM moves ORDER BY number"):
            yield Move(name=row[0], hash=row[1], at=row[2], back=row[3])


_SELECT = "SELECT hash, size, created_at, created_by, engine, language, runs, last_run_at FROM programs"


def _fact(row: tuple[str, int, float, int, str, str, int, float | None]) -> Fact:
    hash, size, created_at, created_by, engine, language, runs, last_run_at = row
    return Fact(
        hash=hash,
        size=size,
        created_at=created_at,
        created_by=created_by,
        engine=engine,
        language="typescript" if language == "typescript" else "javascript",
        runs=runs,
        last_run_at=last_run_at,
    )
