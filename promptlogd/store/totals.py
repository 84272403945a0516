"""Running totals of what each user and each tenant stores. Triggers of SQLite update them in the same transaction.

So a check of a quota reads one row.
"""

from __future__ import annotations

import sqlite3

import msgspec

_ALL = -1
"""Stands for all users together, in place of a uid. Only their names are counted."""

_OF_OLD, _OF_NEW = (f"uid = {row}.uid AND tenant IN ('', ifnull({row}.tenant, ''))" for row in ("old", "new"))
"""Conditions for the totals that a changed row counts in: those of its user, and of its tenant if it has one."""
_ADD_ROWS = """
    INSERT INTO totals (uid, tenant) SELECT new.uid, '' WHERE new.uid IS NOT NULL ON CONFLICT DO NOTHING;
    INSERT INTO totals (uid, tenant) SELECT new.uid, new.tenant WHERE new.tenant IS NOT NULL ON CONFLICT DO NOTHING;
"""
_DROP_ROWS = f"DELETE FROM totals WHERE {_OF_OLD} AND programs = 0 AND names = 0;"

TOTALS_SCHEMA = f"""
CREATE TABLE totals (uid INTEGER NOT NULL, tenant TEXT NOT NULL, programs INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0, names INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (uid, tenant)) WITHOUT ROWID;
INSERT INTO totals (uid, tenant) VALUES ({_ALL}, '');
CREATE TRIGGER holder_added AFTER INSERT ON holders BEGIN
    {_ADD_ROWS}
    UPDATE totals SET programs = programs + 1, bytes = bytes + new.bytes WHERE {_OF_NEW};
END;
CREATE TRIGGER holder_removed AFTER DELETE ON holders BEGIN
    UPDATE totals SET programs = programs - 1, bytes = bytes - old.bytes WHERE {_OF_OLD};
    {_DROP_ROWS}
END;
CREATE TRIGGER name_added AFTER INSERT ON names BEGIN
    {_ADD_ROWS}
    UPDATE totals SET names = names + 1 WHERE uid = {_ALL};
    UPDATE totals SET names = names + 1 WHERE {_OF_NEW};
END;
CREATE TRIGGER name_removed AFTER DELETE ON names BEGIN
    UPDATE totals SET names = names - 1 WHERE uid = {_ALL};
    UPDATE totals SET names = names - 1 WHERE {_OF_OLD};
    {_DROP_ROWS}
END;
CREATE TRIGGER name_given AFTER UPDATE OF uid, tenant ON names BEGIN
    {_ADD_ROWS}
    UPDATE totals SET names = names - 1 WHERE {_OF_OLD};
    UPDATE totals SET names = names + 1 WHERE {_OF_NEW};
    {_DROP_ROWS}
END;
"""
"""`tenant` is empty for the total of a user with all its tenants. A name of format version 2 has no owner, and does not
count until it moves. SQLite runs no trigger for rows that `INSERT OR REPLACE` replaces."""


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """What a user or a tenant stores: number of programs, their disk space, number of names."""

    programs: int = 0
    bytes: int = 0
    names: int = 0


class Totals:
    """Lookups of totals, in a database that `Lookups` owns."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def of(self, uid: int, tenant: str | None) -> Total:
        """Return what a user stores with all its tenants, or what one tenant stores."""
        row = self._db.execute(
            "SELECT programs, bytes, names FROM totals WHERE uid = ? AND tenant = ?", (uid, tenant or "")
        ).fetchone()
        return Total() if row is None else Total(programs=row[0], bytes=row[1], names=row[2])

    def names(self) -> int:
        """Return the number of all names."""
        return self.of(_ALL, None).names
