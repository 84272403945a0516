"""Resolves a hash, a hash prefix, @NAME or a cursor of a page, and finds the previous hash of a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from promptlogd.store.errors import Ambiguous, BadReference, NotFound
from promptlogd.store.hashes import HASH_DIGITS, is_hex
from promptlogd.store.holders import Viewer
from promptlogd.store.journal import Move
from promptlogd.store.lookups import Lookups
from promptlogd.store.newest import Place

MIN_PREFIX_DIGITS = 8
_MATCHES = 10


def meant(reference: str, facts: Lookups, viewer: Viewer | None = None) -> str:
    """Return the hash that a reference means to a viewer. Raises BadReference, NotFound, Ambiguous.

    Whether the viewer sees the program itself is checked only for a prefix.
    """
    if reference.startswith("@"):
        hash = _named(reference[1:], facts, viewer)
        if hash is None:
            raise NotFound(reference)
        return hash
    digits = reference.lower()
    if not is_hex(digits) or len(digits) > HASH_DIGITS:
        hint = f"; did you mean @{reference}?" if _named(reference, facts, viewer) else ""
        raise BadReference(f"{reference!r} is neither a hash, nor a hash prefix, nor @NAME{hint}")
    if len(digits) == HASH_DIGITS:
        return digits
    if len(digits) < MIN_PREFIX_DIGITS:
        raise BadReference(f"{reference!r} is too short; give {MIN_PREFIX_DIGITS} digits or more")
    matches = facts.with_prefix(digits, _MATCHES, viewer)
    if not matches:
        raise NotFound(reference)
    if len(matches) > 1:
        oldest = facts.oldest_with_prefix(digits, viewer)
        raise Ambiguous(reference, [oldest, *(hash for hash in matches if hash != oldest)][:_MATCHES])
    return matches[0]


def _named(name: str, facts: Lookups, viewer: Viewer | None) -> str | None:
    """Return the hash of a name that a viewer sees, and whose program it sees."""
    hash = facts.named(name)
    if hash is None or viewer is None or viewer.manages:
        return hash
    owner = facts.name_owner(name)
    is_seen = owner is not None and viewer.sees(owner) and viewer.sees_any(facts.holders.of(hash))
    return hash if is_seen else None


def before(name: str, history: Sequence[Move], has: Callable[[str], bool]) -> tuple[str, int]:
    """Return the previous hash of a name, and the number of moves that going back there undoes. Raises NotFound."""
    been: list[str | None] = []
    for move in history:
        if move.back:
            del been[-move.back :]
            been = been or [move.hash]  # empty if a compaction deleted the earlier moves
        else:
            been.append(move.hash)
    for back in range(1, len(been)):
        place = been[-1 - back]
        if place is not None and has(place):
            return place, back
    if not history:
        raise NotFound(f"@{name}")
    raise NotFound(f"@{name}", f"@{name} has no earlier program, or that program was removed")


def cursor(place: Place) -> str:
    """Return the cursor of a place in the list."""
    at, hash = place
    return f"{at.hex()}:{hash}"


def place(after: str) -> Place:
    """Return the place in the list that a cursor means. Raises BadReference."""
    text, _, hash = after.partition(":")
    try:
        at = float.fromhex(text)
    except (ValueError, OverflowError):
        at = math.nan
    if not math.isfinite(at) or not hash or not is_hex(hash):
        raise BadReference(f"{after!r} is not a cursor; give the `next` of the previous page")
    return at, hash
