"""A checksum behind a line of JSON, so that a byte that flipped on the disk is found. Pure."""

from __future__ import annotations

import zlib
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")


def seal(record: Any) -> bytes:
    """Return a record as one line of JSON, a space, and the CRC-32 of that JSON in hex."""
    text = msgspec.json.encode(record)
    return text + b" %08x" % zlib.crc32(text)


def unseal(line: bytes, kind: type[_T]) -> _T:
    """Return the record of a sealed line, or of one that was written before there were seals.

    Raises ValueError (msgspec's errors are such) if it is damaged.
    """
    if not line.endswith(b"}"):
        line, _, checksum = line.rpartition(b" ")
        if checksum != b"%08x" % zlib.crc32(line):
            raise ValueError("its checksum is another")
    return msgspec.json.decode(line, type=kind)
