"""The rows of `facts.sqlite3` about holders of programs, and the conditions of queries for what a viewer sees."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

import msgspec

from promptlogd.store.counts import Counts
from promptlogd.store.holders import Credits, Holder, Viewer, Visibility

HOLDER_SCHEMA = """
CREATE TABLE holders (
    hash TEXT NOT NULL, uid INTEGER NOT NULL, tenant TEXT NOT NULL, gid INTEGER, visibility TEXT NOT NULL,
    at REAL NOT NULL, bytes INTEGER NOT NULL, runs INTEGER NOT NULL DEFAULT 0, last_run_at REAL,
    PRIMARY KEY (hash, uid, tenant)
) WITHOUT ROWID;
"""
"""`tenant` is empty for a user. `bytes`: the disk space that the holder is charged for. `runs`: the number of runs that
count for the holder (`Credits`)."""

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
        """Replace the holders of a program, which must have a row. Holders that stay keep their count of runs."""
        after = {(one.uid, one.tenant or ""): one for one in holders}
        before = self._db.execute("SELECT uid, tenant FROM holders WHERE hash = ?", (hash,)).fetchall()
        self._db.executemany(
            "DELETE FROM holders WHERE hash = ? AND uid = ? AND tenant = ?",
            ((hash, *owner) for owner in before if owner not in after),
        )
        self._db.executemany(
            "INSERT INTO holders (hash, uid, tenant, gid, visibility, at, bytes) "
            f"SELECT hash, ?, ?, ?, ?, ?, {_PROGRAM_BYTES} FROM programs WHERE hash = ? "
            "ON CONFLICT DO UPDATE SET gid = excluded.gid, visibility = excluded.visibility, at = excluded.at",
            ((uid, tenant, one.gid, one.visibility, one.at, hash) for (uid, tenant), one in after.items()),
        )

    def replace(self, hash: str, size: int, holders: Iterable[Holder]) -> None:
        """Replace the holders of a program, and drop their counts of runs. `size`: of its files, in bytes."""
        self._db.execute("DELETE FROM holders WHERE hash = ?", (hash,))
        for one in holders:
            self._db.execute(
                "INSERT INTO holders (hash, uid, tenant, gid, visibility, at, bytes) "
                f"SELECT ?, ?, ?, ?, ?, ?, {_PROGRAM_BYTES} FROM (SELECT ? AS size)",
                (hash, one.uid, one.tenant or "", one.gid, one.visibility, one.at, size),
            )

    def first_seen(self, hash: str, viewer: Viewer) -> float | None:
        """Return the time of the first submit that a viewer sees; None if there is none."""
        seen, arguments = _seen_by(viewer)
        query = f"SELECT min(at) FROM holders WHERE hash = ? AND {seen}"
        at: float | None = self._db.execute(query, (hash, *arguments)).fetchone()[0]
        return at

    def own_visibility(self, hash: str, viewer: Viewer) -> Visibility | None:
        """Return the visibility that the viewer has given to a program; if none, that of a tenant that it owns."""
        own = "SELECT visibility, min(at) FROM holders WHERE hash = ? AND uid = ?"
        (visibility, _) = self._db.execute(f"{own} AND tenant = ?", (hash, viewer.uid, viewer.tenant or "")).fetchone()
        if visibility is None and viewer.owns_user:
            (visibility, _) = self._db.execute(own, (hash, viewer.uid)).fetchone()
        return None if visibility is None else msgspec.convert(visibility, Visibility)

    def runs_seen(self, hash: str, viewer: Viewer) -> tuple[int, float | None]:
        """Return the number of runs that count for holders that a viewer sees, and the time of the last end."""
        seen, arguments = _seen_by(viewer)
        row = self._db.execute(
            f"SELECT total(runs), max(last_run_at) FROM holders WHERE hash = ? AND {seen}", (hash, *arguments)
        ).fetchone()
        return int(row[0]), row[1]

    def count_runs(self, hash: str, counts: Counts) -> None:
        """Add finished runs of a program to those of its holders."""
        credits = Credits(self.of(hash))
        for viewer, (count, at) in counts.items():
            owner = credits.of(viewer)
            if owner is not None:
                self._db.execute(
                    "UPDATE holders SET runs = runs + ?, last_run_at = max(ifnull(last_run_at, 0.0), ?) "
                    "WHERE hash = ? AND uid = ? AND tenant = ?",
                    (count, at, hash, owner.uid, owner.tenant or ""),
                )

    def of_others(self, hash: str, owner: Holder) -> int:
        """Return the number of names on a program whose owners are not its holders; 0 if `owner` is a holder."""
        holders = "SELECT uid, tenant FROM holders WHERE hash = ?"
        row = self._db.execute(
            "SELECT count(*) FROM names WHERE hash = ? AND uid IS NOT NULL "
            f"AND (uid, ifnull(tenant, '')) NOT IN ({holders}) AND (?, ?) NOT IN ({holders})",
            (hash, hash, owner.uid, owner.tenant or "", hash),
        ).fetchone()
        return int(row[0])

    def fill(self, holders_of: Callable[[str, int], Sequence[Holder]]) -> None:
        """Add the holders of all programs. `holders_of`: those of a hash and the uid that submitted it."""
        for hash, uid in self._db.execute("SELECT hash, created_by FROM programs").fetchall():
            self.put(hash, holders_of(hash, uid))
        # If a program has several holders, the older version did not record which holder each run counts for.
        self._db.execute(
            "UPDATE holders SET (runs, last_run_at) = "
            "(SELECT runs, last_run_at FROM programs WHERE programs.hash = holders.hash) "
            "WHERE (SELECT count(*) FROM holders AS others WHERE others.hash = holders.hash) = 1"
        )


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
