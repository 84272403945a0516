"""The conditions of a query of the journal."""

from __future__ import annotations

from typing import Any

import msgspec

_FAILED = "((kind = 'run' AND outcome <> 'ok') OR kind = 'refused')"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """The entries that a query selects."""

    uid: int | None
    """The uid that the entries belong to. None: all uids."""
    hash: str | None = None
    """Hash of the program, or a prefix of it."""
    failed: bool = False
    since: float | None = None

    def where(self) -> tuple[str, list[Any]]:
        """Return the SQL condition and its values."""
        parts, values = ["1"], list[Any]()
        if self.uid is not None:
            parts.append("uid = ?")
            values.append(self.uid)
        if self.hash is not None:
            # `+`: do not use the index of hashes, which would read all older entries of the program.
            column = "hash" if self.since is None else "+hash"
            parts.append(f"{column} >= ? AND {column} < ?")
            values += [self.hash, self.hash + "g"]  # above each hexadecimal digit
        if self.failed:
            parts.append(_FAILED)
        if self.since is not None:
            # The condition on `id` limits the scan, whichever index SQLite uses. `+`: use the index of times for MIN.
            parts.append("id >= (SELECT MIN(+id) FROM entries WHERE at >= ?) AND at >= ?")
            values += [self.since, self.since]
        return " AND ".join(parts), values
