"""One side of a connection, sans-IO: bytes in, messages out; messages in, bytes out.

Inside the process, every JSON value in a message (a run's `env`, an `ok` outcome's `value`) is a Raw with JSON text. On
a JSON connection, it is part of the JSON message. On a MessagePack connection, it is a str.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import msgspec
from msgspec import Raw, json, msgpack, structs

from promptlogd.wire.errors import BadMessage, ProtocolError
from promptlogd.wire.framing import HEADER_BYTES, MAX_FRAME_BYTES, Encoding, FrameDecoder, encode_frame
from promptlogd.wire.messages import Error, Finished, Reply, Request, Run, Shown
from promptlogd.wire.requests import DECODE_ERRORS, TextBounds, explain, json_text, read_request
from promptlogd.wire.texts import Encoded, Part, in_msgpack
from sandbox.outcome import Ok

_encode_json, _encode_msgpack = json.Encoder().encode, msgpack.Encoder().encode
_reply_decoders: dict[Encoding, json.Decoder[Any] | msgpack.Decoder[Any]] = {
    "json": json.Decoder(Reply),
    "msgpack": msgpack.Decoder(Reply),
}

_SHORT_BYTES = 4096
"""A longer JSON text is inserted into a MessagePack message without decoding it, which would take 3 ms for each MiB."""

_LARGE_BYTES = 64 * 1024
"""A longer result is not copied into its reply. A copy takes 0.5 ms for each MiB, and encoding makes two or three."""

_PLACE_BYTES = os.urandom(16)
_PLACE = Raw(_PLACE_BYTES)
"""Placeholder in a message for a value that is not copied into it. Random, so that no client's text contains it."""


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """The undecoded payload of a large frame, for `read_request` in another process."""

    payload: bytes | memoryview
    encoding: Encoding


class _Session:
    def __init__(self, *, encoding: Encoding | None) -> None:
        self._frames = FrameDecoder(encoding=encoding)

    @property
    def encoding(self) -> Encoding:
        """Encoding of this connection. MessagePack until the first byte is known."""
        return self._frames.encoding

    @property
    def mid_frame(self) -> bool:
        """Whether a frame is incomplete."""
        return self._frames.buffered_bytes > 0

    @property
    def buffered_bytes(self) -> int:
        """Number of received bytes of the incomplete frame. 0: none is incomplete."""
        return self._frames.buffered_bytes

    def clear(self) -> None:
        """Drop the buffered bytes."""
        self._frames.clear()

    def _encode(self, message: object) -> bytes:
        encoding = self._frames.encoding
        return encode_frame(_encode_json(message) if encoding == "json" else _encode_msgpack(message), encoding)


def _text_in_msgpack(text: memoryview) -> Raw:
    """Return a JSON text as a MessagePack str."""
    if len(text) <= _SHORT_BYTES:
        return Raw(_encode_msgpack(str(text, "utf-8")))
    return Raw(b"".join(in_msgpack(text).parts))


class ServerSession(_Session):
    """The daemon's side: receives requests, sends replies."""

    def __init__(self, *, bounds: TextBounds = TextBounds(), inline_bytes: int = MAX_FRAME_BYTES) -> None:  # noqa: B008  # frozen
        """`inline_bytes`: `receive` returns a longer payload as Unread."""
        super().__init__(encoding=None)
        self._bounds = bounds
        self._inline_bytes = inline_bytes

    def receive(self, data: bytes) -> list[Request | BadMessage | ProtocolError | Unread]:
        """Take bytes from the client, and return the requests and errors that they complete, in order.

        A ProtocolError is the last item, for a frame over the cap or without a readable id.
        """
        return list(self.events(data))

    def events(self, data: bytes) -> Iterator[Request | BadMessage | ProtocolError | Unread]:
        """Like `receive`, but decode each frame only when the iterator reaches it."""
        whole = self._frames.whole(data)
        return self._requests(self._frames.feed(data) if whole is None else (whole,))

    def _requests(
        self, payloads: Iterable[bytes | memoryview]
    ) -> Iterator[Request | BadMessage | ProtocolError | Unread]:
        try:
            for payload in payloads:
                if len(payload) > self._inline_bytes:
                    yield Unread(payload=payload, encoding=self._frames.encoding)
                else:
                    yield read_request(payload, self._frames.encoding, self._bounds)
        except ProtocolError as error:
            error.__context__ = None  # its traceback refers to the received bytes and is part of a reference cycle
            yield error.with_traceback(None)

    def send(self, reply: Reply) -> Sequence[Part]:
        """Return the bytes of one reply, in parts. If the reply exceeds the cap of a frame, return an error's bytes."""
        large: Encoded | None = None
        encoding = self._frames.encoding
        if isinstance(reply, Finished) and isinstance(reply.outcome, Ok):
            text = memoryview(reply.outcome.value)
            if len(text) > _LARGE_BYTES:
                large = Encoded((text,)) if encoding == "json" else in_msgpack(text)
                reply = structs.replace(reply, outcome=Ok(value=_PLACE))
            elif encoding != "json":
                reply = structs.replace(reply, outcome=Ok(value=_text_in_msgpack(text)))
        elif isinstance(reply, Shown) and isinstance(reply.source, Encoded):
            large = reply.source
            reply = structs.replace(reply, source=cast(str, _PLACE))
        payload = _encode_json(reply) if encoding == "json" else _encode_msgpack(reply)
        parts: Sequence[Part]
        if large is None and len(payload) <= _LARGE_BYTES:
            return (encode_frame(payload, encoding),)
        if large is not None:
            at, view = payload.index(_PLACE_BYTES), memoryview(payload)
            parts = self._framed(view[:at], *large.parts, view[at + len(_PLACE_BYTES) :])
        else:
            parts = self._framed(payload)
        size = sum(map(len, parts))
        if size > MAX_FRAME_BYTES:
            message = f"the reply of {size} bytes exceeds the maximum size of a frame, {MAX_FRAME_BYTES}"
            return (self._encode(Error(id=reply.id, code="too_large", message=message)),)
        return parts

    def _framed(self, *parts: Part) -> Sequence[Part]:
        """Return the frame of a payload, without a copy."""
        if self._frames.encoding == "json":
            return *parts, b"\n"
        return sum(map(len, parts)).to_bytes(HEADER_BYTES, "big"), *parts


class ClientSession(_Session):
    """The client's side: sends requests, receives replies."""

    def __init__(self, *, encoding: Encoding = "msgpack") -> None:
        super().__init__(encoding=encoding)

    def send(self, request: Request) -> bytes:
        """Return the bytes of one request. The `env` of a Run is a Raw with JSON text."""
        if self._frames.encoding != "json" and isinstance(request, Run) and bytes(request.env):
            request = structs.replace(request, env=_text_in_msgpack(memoryview(request.env)))
        return self._encode(request)

    def receive(self, data: bytes) -> list[Reply]:
        """Take bytes from the daemon, and return the replies that they complete. Raises ProtocolError."""
        whole = self._frames.whole(data)
        return [self._reply(payload) for payload in (self._frames.feed(data) if whole is None else (whole,))]

    def _reply(self, payload: bytes | memoryview) -> Reply:
        try:
            reply: Reply = _reply_decoders[self._frames.encoding].decode(payload)
            if isinstance(reply, Finished) and isinstance(reply.outcome, Ok):
                reply = structs.replace(reply, outcome=Ok(value=json_text(reply.outcome.value, self._frames.encoding)))
        except DECODE_ERRORS as error:
            raise ProtocolError(f"not a reply: {explain(error)}") from None
        return reply
