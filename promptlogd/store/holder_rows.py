"""The rows of `facts.sqlite3` about holders of programs, and the conditions of queries for what a viewer sees."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

import msgspec

from promptlogd.store.holders import Holder, Viewer

HOLDER_SCHEMA = """
CREATE TABLE holders (
    hash TEXT NOT NULL, uid INTEGER NOT NULL, tenant TEXT NOT NULL, gid INTEGER, visibility TEXT NOT NULL,
    at REAL NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (hash, uid, tenant)
) WITHOUT ROWID;
"""
"""`tenant` is empty for a user. `bytes`: the disk space that the holder is charged for."""

_TENANT = "ifnull(names.tenant, '')"
_BLOCK = 4096
_PROGRAM_BYTES = f"{2 * _BLOCK} + (size + {_BLOCK - 1}) / {_BLOCK} * {_BLOCK}"
"""Disk space of a program with one file, without its artifacts, as `usage.program_bytes` counts it."""


class HolderRows:
    """The rows of holders, in a database that `Facts` or `Lookups` owns. One thread at a time."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def of(self, hash: str) -> list[Holder]:
        """Return the holders of a program, the oldest first."""
        rows = self._db.execute("SELECT uid, tenant, gid, visibility, at FROM holders WHERE hash = ?", (hash,))
        return sorted((_holder(row) for row in rows), key=lambda holder: holder.at)

    def put(self, hash: str, holders: Iterable[Holder]) -> None:
        """Replace the holders of a program, which must have a row."""
        self._db.execute("DELETE FROM holders WHERE hash = ?", (hash,))
        self._db.executemany(
            "INSERT INTO holders (hash, uid, tenant, gid, visibility, at, bytes) "
            f"SELECT hash, ?, ?, ?, ?, ?, {_PROGRAM_BYTES} FROM programs WHERE hash = ?",
            ((one.uid, one.tenant or "", one.gid, one.visibility, one.at, hash) for one in holders),
        )

    def of_others(self, hash: str, owner: Holder) -> int:
        """Return the number of names on a program whose owners do not hold it; 0 if this owner of a name holds it."""
        is_held = "EXISTS (SELECT 1 FROM holders WHERE hash = ? AND uid = {uid} AND tenant = {tenant})"
        row = self._db.execute(
            f"SELECT count(*) FROM names WHERE hash = ? AND uid IS NOT NULL AND NOT {is_held.format(uid='names.uid', tenant=_TENANT)} "
            f"AND NOT {is_held.format(uid='?', tenant='?')}",
            (hash, hash, hash, owner.uid, owner.tenant or ""),
        ).fetchone()
        return int(row[0])

    def fill(self, holders_of: Callable[[str, int], Sequence[Holder]]) -> None:
        """Add the holders of all programs. `holders_of`: those of a hash and the uid that submitted it."""
        for hash, uid in self._db.execute("SELECT hash, created_by FROM programs").fetchall():
            self.put(hash, holders_of(hash, uid))


def seen_by(viewer: Viewer | None) -> tuple[str, list[int | str]]:
    """Return the condition on a row of `programs` that this viewer sees it, and its arguments. None: everybody does."""
    if viewer is None or viewer.manages:
        return "1", []
    seen, arguments = _seen_by(viewer)
    return f"EXISTS (SELECT 1 FROM holders WHERE holders.hash = programs.hash AND {seen})", arguments


def name_seen_by(viewer: Viewer | None) -> tuple[str, list[int | str]]:
    """Return the condition on a row of `names` that this viewer sees it, and its arguments. None: everybody does."""
    if viewer is None or viewer.manages:
        return "1", []
    seen, arguments = _seen_by(viewer)
    return f"(visibility IS NULL OR {seen})", arguments


def _seen_by(viewer: Viewer) -> tuple[str, list[int | str]]:
    own = "uid = ?"
    arguments: list[int | str] = [viewer.uid]
    if not viewer.owns_user:
        own, arguments = "uid = ? AND ifnull(tenant, '') = ?", [viewer.uid, viewer.tenant or ""]
    groups = ", ".join("?" * len(viewer.gids))
    return (
        f"(visibility = 'all' OR ({own}) OR (visibility = 'group' AND gid IN ({groups})))",
        [*arguments, *viewer.gids],
    )


def _holder(row: tuple[int, str, int | None, str, float]) -> Holder:
    uid, tenant, gid, visibility, at = row
    return msgspec.convert(
        {"uid": uid, "tenant": tenant or None, "gid": gid, "visibility": visibility, "at": at}, Holder
    )
