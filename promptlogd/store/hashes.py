"""Syntax of hashes, and of the names of shelves (folders by the first two digits of the hash). Pure."""

from __future__ import annotations

HASH_DIGITS = 64
SHELF_DIGITS = 2
_HEX = frozenset("0123456789abcdef")


def is_hex(text: str) -> bool:
    """Whether all characters are lowercase hexadecimal digits."""
    return _HEX.issuperset(text)


def is_hash(text: str) -> bool:
    """Whether this is a whole hash: 64 lowercase hexadecimal digits."""
    return len(text) == HASH_DIGITS and is_hex(text)


def is_shelf(text: str) -> bool:
    """Whether this is the name of a shelf: the folder of all programs whose hashes start with these two digits."""
    return len(text) == SHELF_DIGITS and is_hex(text)
