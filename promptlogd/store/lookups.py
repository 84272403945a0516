"""Queries of `facts.sqlite3` while the daemon serves. Each uses an index, and returns a bounded number of rows.

The exceptions are `unused`, `count`, `source_bytes` and `moves`, which scan an index or a table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from promptlogd.store.holder_rows import HolderRows, name_seen_by, seen_by
from promptlogd.store.holders import Holder, Viewer
from promptlogd.store.journal import Move
from promptlogd.store.name_rows import MOVE_COLUMNS
from promptlogd.store.newest import Place, Places, newest
from promptlogd.store.totals import Totals
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
    submitted_at: float | None
    """The last submit after the first."""

    @property
    def used_at(self) -> float:
        """When it was last run, or submitted if that was later."""
        return max(self.created_at, self.last_run_at or 0.0, self.submitted_at or 0.0)


class Lookups:
    """Queries on a connection that only the caller uses."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.holders = HolderRows(db)
        self.totals = Totals(db)

    def get(self, hash: str) -> Fact | None:
        """Return the facts about one program; None if there is no row."""
        row = self._db.execute(f"{_SELECT} WHERE hash = ?", (hash,)).fetchone()
        return None if row is None else _fact(row)

    def newest(self, limit: int, after: Place | None, viewer: Viewer) -> Places:
        """Return the places of programs that a viewer sees, newest first, that follow this place."""
        return newest(self._db, limit, after, viewer)

    def unused(self, before: float, limit: int, after: tuple[float, str] | None) -> list[Fact]:
        """Return programs without names that were not used since `before`, the longest unused first. Scans all."""
        used = "max(created_at, ifnull(last_run_at, 0.0), ifnull(submitted_at, 0.0))"
        rows = self._db.execute(
            f"{_SELECT} WHERE {used} <= ? AND ({used}, hash) > (?, ?) "
            "AND NOT EXISTS (SELECT 1 FROM names WHERE names.hash = programs.hash) "
            f"AND NOT EXISTS (SELECT 1 FROM holders WHERE holders.hash = programs.hash AND holders.at > ?) "
            f"ORDER BY {used}, hash LIMIT ?",
            (before, *(after or (float("-inf"), "")), before, limit),
        )
        return [_fact(row) for row in rows]

    def count(self) -> int:
        """Return the number of programs. Takes 2 ms for 100,000."""
        return int(self._db.execute("SELECT count(*) FROM programs").fetchone()[0])

    def source_bytes(self) -> int:
        """Return the size of the sources of all programs."""
        return int(self._db.execute("SELECT total(size) FROM programs").fetchone()[0])

    def with_prefix(self, prefix: str, limit: int, viewer: Viewer | None = None) -> list[str]:
        """Return hashes with this prefix, of programs that a viewer sees."""
        seen, arguments = seen_by(viewer)
        rows = self._db.execute(
            f"SELECT hash FROM programs WHERE hash >= ? AND hash < ? AND {seen} ORDER BY hash LIMIT ?",
            (prefix, prefix + "g", *arguments, limit),
        )
        return [row[0] for row in rows]

    def oldest_with_prefix(self, prefix: str, viewer: Viewer | None = None) -> str:
        """Return the hash of the oldest program with this prefix that a viewer sees. There must be one."""
        seen, arguments = seen_by(viewer)
        row = self._db.execute(
            f"SELECT hash, min(created_at) FROM programs WHERE hash >= ? AND hash < ? AND {seen}",
            (prefix, prefix + "g", *arguments),
        ).fetchone()
        return str(row[0])

    def named(self, name: str) -> str | None:
        """Return the hash that a name refers to."""
        row = self._db.execute("SELECT hash FROM names WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def name_owner(self, name: str) -> Holder | None:
        """Return the owner of a name and who sees it; None if there is no such name.

        A name of format version 2 has the owner of its program, and everyone sees it.
        """
        row = self._db.execute(
            "SELECT ifnull(uid, ifnull(created_by, 0)), tenant, gid, ifnull(visibility, 'all') FROM names "
            "LEFT JOIN programs USING (hash) WHERE name = ?",
            (name,),
        ).fetchone()
        return None if row is None else Holder(uid=row[0], tenant=row[1], gid=row[2], visibility=row[3])

    def names_on(self, hash: str, limit: int = -1, viewer: Viewer | None = None) -> list[str]:
        """Return the names of a hash that a viewer sees in alphabetical order: the first `limit`, or all."""
        seen, arguments = name_seen_by(viewer)
        query = f"SELECT name FROM names WHERE hash = ? AND {seen} ORDER BY name LIMIT ?"
        return [row[0] for row in self._db.execute(query, (hash, *arguments, limit))]

    def count_names_on(self, hash: str, viewer: Viewer | None = None) -> int:
        """Return the number of names of a hash that a viewer sees."""
        seen, arguments = name_seen_by(viewer)
        query = f"SELECT count(*) FROM names WHERE hash = ? AND {seen}"
        return int(self._db.execute(query, (hash, *arguments)).fetchone()[0])

    def history(self, name: str, limit: int = -1) -> list[Move]:
        """Return the moves of a name, oldest first: its newest `limit` moves, or all."""
        rows = self._db.execute(
            f"SELECT {MOVE_COLUMNS} FROM moves WHERE name = ? ORDER BY number DESC LIMIT ?", (name, limit)
        ).fetchall()
        return [_move(row) for row in reversed(rows)]

    def moves(self) -> Iterator[Move]:
        """Yield all moves, oldest first."""
        for row in self._db.execute(f"SELECT {MOVE_COLUMNS} FROM moves ORDER BY number"):
            yield _move(row)


def _move(row: tuple[Any, ...]) -> Move:
    return Move(**dict(zip(Move.__struct_fields__, row, strict=True)))


_SELECT = "SELECT hash, size, created_at, created_by, engine, language, runs, last_run_at, submitted_at FROM programs"


def _fact(row: tuple[str, int, float, int, str, str, int, float | None, float | None]) -> Fact:
    hash, size, created_at, created_by, engine, language, runs, last_run_at, submitted_at = row
    return Fact(
        hash=hash,
        size=size,
        created_at=created_at,
        created_by=created_by,
        engine=engine,
        language="typescript" if language == "typescript" else "javascript",
        runs=runs,
        last_run_at=last_run_at,
        submitted_at=submitted_at,
    )
