"""What a hash looks like, and the shelf that its program is on. Pure."""

from __future__ import annotations

HASH_DIGITS = 64
SHELF_DIGITS = 2
_HEX = frozenset("0123456789abcdef")


def is_hex(text: str) -> bool:
    """Whether there is nothing but digits as we write them."""
    return _HEX.issuperset(text)


def is_hash(text: str) -> bool:
    """Whether this is a whole hash, as we write it."""
    return len(text) == HASH_DIGITS and is_hex(text)


def is_shelf(text: str) -> bool:
    """Whether this is the name of a shelf: a folder for the programs whose hashes begin so."""
    return len(text) == SHELF_DIGITS and is_hex(text)
