"""A checksum after a line of JSON, which detects corruption on disk. Pure."""

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
    """Return the record of a sealed line, or of an unsealed line of an older version.

    Raises ValueError if it is damaged (msgspec's errors are ValueErrors).
    """
    if not line.endswith(b"}"):
        line, _, checksum = line.rpartition(b" ")
        if checksum != b"%08x" % zlib.crc32(line):
            raise ValueError("its checksum does not match")
    return msgspec.json.decode(line, type=kind)
