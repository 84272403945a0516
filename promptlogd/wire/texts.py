"""Large values of replies, encoded in parts that are sent without another copy. Pure."""

from __future__ import annotations

import codecs

import msgspec
from msgspec import Struct

from promptlogd.wire.framing import Encoding

Part = bytes | memoryview
"""A part of the bytes of a reply."""

_SLICE_BYTES = 32 * 1024
"""Bytes of a source that are encoded at once: at most 0.5 ms. Then the event loop can get the interpreter's lock.

Encoding 1 MiB of control characters as JSON in one call takes 14 ms.
"""

_STR_32 = b"\xdb"
"""Type byte of a MessagePack str whose size follows in 4 bytes."""


class Encoded(Struct, frozen=True):
    """An encoded value. `ServerSession.send` inserts its parts into a reply unchanged."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(map(len, self.parts))


def encode_text(text: bytes, encoding: Encoding) -> Encoded:
    """Encode a UTF-8 text for a message. Takes up to 14 ms for each MiB, so call it in a worker thread."""
    if encoding == "msgpack":
        return in_msgpack(text)
    decode = codecs.getincrementaldecoder("utf-8")().decode
    with memoryview(text) as view:
        parts = [
            msgspec.json.encode(decode(view[at : at + _SLICE_BYTES]))[1:-1] for at in range(0, len(text), _SLICE_BYTES)
        ]
    return Encoded((b'"', *parts, b'"'))


def in_msgpack(text: Part) -> Encoded:
    """Encode a UTF-8 text as a MessagePack str, without a copy."""
    return Encoded((_STR_32 + len(text).to_bytes(4, "big"), text))
