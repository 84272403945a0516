"""Frames in a byte stream: length-prefixed MessagePack, or JSON lines. Pure.

A connection uses JSON lines if its first byte is `{` (or white space before it). As the first byte of a length, each of
these would announce a frame far over the cap, so no MessagePack connection can start with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from promptlogd.wire.errors import ProtocolError

Encoding = Literal["msgpack", "json"]

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Maximum size of a frame. A prompt of 1 MiB that JSON escapes sixfold fits, together with a source."""

_LARGE_BYTES = 256 * 1024
"""A longer frame is returned as a view of its buffer, because copying 8 MiB to new pages takes 4 ms."""

HEADER_BYTES = 4
_BLANK = re.compile(rb"\s*")
_JSON_START = b"{ \t\r\n"
_TEXT = frozenset(map(chr, range(0x21, 0x7F))) - {"{"}
"""First bytes of a connection with typed text or HTTP. As a length they would announce at least half a gigabyte."""


class FrameDecoder:
    """Collects bytes and returns complete frames. It owns the only buffer that incomplete input can occupy."""

    def __init__(self, *, encoding: Encoding | None = None) -> None:
        self.encoding: Encoding = encoding or "msgpack"
        """MessagePack until the first byte is known."""
        self._is_known = encoding is not None
        self._buffer = bytearray()
        self._scanned = 0

    @property
    def buffered_bytes(self) -> int:
        """Number of buffered bytes of an incomplete frame. 0: the stream is between two frames."""
        return len(self._buffer)

    def clear(self) -> None:
        """Drop the buffered bytes."""
        self._buffer.clear()

    def whole(self, data: bytes) -> bytes | None:
        """Take the next bytes, if they are exactly one short MessagePack frame, and return its payload.

        Otherwise return None, and take nothing. Most requests arrive like this, and need no buffer.
        """
        size = len(data) - HEADER_BYTES
        if self._buffer or not self._is_known or self.encoding == "json" or not 0 <= size <= _LARGE_BYTES:
            return None
        return data[HEADER_BYTES:] if int.from_bytes(data[:HEADER_BYTES], "big") == size else None

    def feed(self, data: bytes) -> Iterator[bytes | memoryview]:
        """Take the next bytes of the stream and yield complete frames. A large frame is a view.

        Raises ProtocolError for a frame over the cap, after the frames before it, as soon as its size is known.
        """
        self._buffer += data
        if not self._is_known and self._buffer:
            self._tell_encoding(self._buffer[0])
        yield from self._lines() if self.encoding == "json" else self._prefixed()

    def _tell_encoding(self, first: int) -> None:
        self._is_known = True
        self.encoding = "json" if first in _JSON_START else "msgpack"
        if chr(first) in _TEXT:
            self.encoding = "json"
            raise ProtocolError(
                f"a connection starts with {{ (JSON, one message a line) or with the length of a MessagePack frame, "
                f"not with {chr(first)!r}"
            )

    def _past_blank(self, start: int) -> int:
        """Return the start of the next non-blank line. Skips blank lines without a Python loop."""
        found = _BLANK.match(self._buffer, start)
        return found.end() if found is not None else start

    def _large(self, start: int, end: int, rest: int) -> memoryview:
        """Return a large frame without a copy. The bytes from `rest` on become the new buffer."""
        whole, self._buffer = self._buffer, self._buffer[rest:]
        return memoryview(whole)[start:end]

    def _prefixed(self) -> Iterator[bytes | memoryview]:
        buffer, start = self._buffer, 0
        while len(buffer) - start >= HEADER_BYTES:
            size = int.from_bytes(buffer[start : start + HEADER_BYTES], "big")
            if size > MAX_FRAME_BYTES:
                raise self._too_large(size)
            end = start + HEADER_BYTES + size
            if len(buffer) < end:
                break
            if size > _LARGE_BYTES:
                yield self._large(start + HEADER_BYTES, end, end)
                buffer, start = self._buffer, 0
                continue
            yield bytes(buffer[start + HEADER_BYTES : end])
            start = end
        if start:
            del buffer[:start]

    def _lines(self) -> Iterator[bytes | memoryview]:
        buffer = self._buffer
        start = self._past_blank(0)
        while (end := buffer.find(b"\n", max(start, self._scanned))) >= 0:
            if end - start > MAX_FRAME_BYTES:
                raise self._too_large(end - start)
            if end - start > _LARGE_BYTES:
                yield self._large(start, end, end + 1)
                self._scanned, buffer = 0, self._buffer
                start = self._past_blank(0)
                continue
            yield bytes(buffer[start:end]).rstrip()
            start = self._past_blank(end + 1)
        if start:
            del buffer[:start]
        self._scanned = len(buffer)
        if len(buffer) > MAX_FRAME_BYTES:
            raise self._too_large(len(buffer))

    def _too_large(self, size: int) -> ProtocolError:
        self._buffer.clear()  # nothing follows, and the error's traceback would keep the buffer alive
        return ProtocolError(
            f"a frame of {size} bytes or more exceeds the maximum of {MAX_FRAME_BYTES}", code="too_large"
        )


def encode_frame(payload: bytes, encoding: Encoding) -> bytes:
    """Return the frame of one payload."""
    if encoding == "json":
        return payload + b"\n"
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload
