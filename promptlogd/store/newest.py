"""The programs that a viewer sees, newest first, a page at a time.

Programs are in the order of the first submit that the viewer sees. An order that includes hidden submits would reveal
them. So the pages come from the rows of holders. There is an index for each reason to see a row: it is the viewer's
own, or it is shown to one of the viewer's groups, or to all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from promptlogd.store.holder_rows import HolderRows
from promptlogd.store.holders import Viewer

NEWEST_SCHEMA = """
DROP INDEX IF EXISTS newest;
CREATE INDEX by_time ON programs (created_at, hash);
CREATE INDEX of_user ON holders (uid, at, hash);
CREATE INDEX of_tenant ON holders (uid, tenant, at, hash);
CREATE INDEX shown_to_group ON holders (gid, at, hash) WHERE visibility = 'group';
CREATE INDEX shown_to_all ON holders (at, hash) WHERE visibility = 'all';
"""
"""The index `newest` exists only in older databases."""

_MOST_ROWS = 10_000
"""Maximum number of rows that the queries of a page read together, unless the viewer has more groups than this."""

Place = tuple[float, str]
"""A place in the list: time of the submit, hash."""
_BEFORE_ALL: Place = (1e300, "")
_AFTER_ALL: Place = (-1e300, "")


class Places(NamedTuple):
    """Programs of a page, and the place after which the next page begins; None if this is the last page."""

    found: Sequence[Place]
    next: Place | None


def newest(db: sqlite3.Connection, limit: int, after: Place | None, viewer: Viewer) -> Places:
    """Return a page of at most `limit` programs. It reads a bounded number of rows.

    If a viewer sees a program for several reasons, the program has several rows, and only the oldest row counts. So a
    page that is not the last can have fewer programs than `limit`, even none.
    """
    queries = list(_queries(viewer))
    limit = max(1, min(limit, _MOST_ROWS // len(queries)))
    rows: set[Place] = set()
    read_to = _AFTER_ALL
    """All rows that are newer than this place have been read."""
    for query, arguments in queries:
        some = db.execute(query, (*arguments, *(after or _BEFORE_ALL), limit + 1)).fetchall()
        rows.update(some)
        if len(some) > limit:
            read_to = max(read_to, some[-1])
    holders = HolderRows(db)
    found: list[Place] = []
    last: Place | None = None
    for row in sorted(rows, reverse=True):
        if row < read_to or len(found) == limit:
            return Places(found, last)
        last = row
        at, hash = row
        if viewer.manages or holders.first_seen(hash, viewer) == at:
            found.append(row)
    return Places(found, last if read_to > _AFTER_ALL else None)


def _queries(viewer: Viewer) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield a query for each reason to see a program, and its arguments. The caller appends a place and the limit."""
    if viewer.manages:
        yield _query("programs", "1", at="created_at"), ()
        return
    yield _query("holders", "visibility = 'all'"), ()
    if viewer.owns_user:
        yield _query("holders", "uid = ?"), (viewer.uid,)
    else:
        yield _query("holders", "uid = ? AND tenant = ?"), (viewer.uid, viewer.tenant or "")
    for gid in viewer.gids:
        yield _query("holders", "visibility = 'group' AND gid = ?"), (gid,)


def _query(table: str, condition: str, at: str = "at") -> str:
    return (
        f"SELECT {at}, hash FROM {table} WHERE {condition} AND ({at}, hash) < (?, ?) "
        f"ORDER BY {at} DESC, hash DESC LIMIT ?"
    )
