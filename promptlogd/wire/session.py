"""One end of a connection as a machine without input or output: bytes in, messages out, messages in, bytes out.

Inside the process every JSON value in a message (a run's `env`, an `ok` outcome's `value`) is a Raw that holds
JSON text. On a JSON connection it stands in the message as it is; on a MessagePack connection it is a str.
"""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
from msgspec import Raw, json, msgpack, structs

from promptlogd.wire.errors import BadMessage, ProtocolError
from promptlogd.wire.framing import MAX_FRAME_BYTES, Encoding, FrameDecoder, encode_frame
from promptlogd.wire.messages import Finished, Id, Isolation, Reply, Request, Run
from sandbox.outcome import Ok
from sandbox.program import Language


class _Envelope(msgspec.Struct):
    """The one field that is read of a message which is otherwise wrong."""

    id: Id


_Decoders = dict[Encoding, json.Decoder[Any] | msgpack.Decoder[Any]]

_encode_json = json.Encoder().encode
_encode_msgpack = msgpack.Encoder().encode
_request_decoders: _Decoders = {"json": json.Decoder(Request), "msgpack": msgpack.Decoder(Request)}
_reply_decoders: _Decoders = {"json": json.Decoder(Reply), "msgpack": msgpack.Decoder(Reply)}
_envelope_decoders: _Decoders = {"json": json.Decoder(_Envelope), "msgpack": msgpack.Decoder(_Envelope)}
_text_decoder = msgpack.Decoder(str)
_object_decoder = json.Decoder(dict[str, Raw])

_id_decoder: json.Decoder[Id] = json.Decoder(Id)

_PLAIN = rb'"[^"\\]{0,128}"'
_ID_FIRST = re.compile(
    rb"\s*\{(?:\s*%s\s*:\s*%s\s*,){0,8}\s*\"id\"\s*:\s*(\d{1,16}|%s)\s*[,}]" % (_PLAIN, _PLAIN, _PLAIN)
)
"""A message's id, where nothing but plain texts stands before it, so that it is the message's own."""

# RecursionError and UnicodeDecodeError are no MsgspecErrors (FACTS.md).
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


_QUOTED, _PLACE = 250, 50
"""Characters of an explanation, at its begin and, with the place in the message, at its end."""

_NOT_ONE_OF = re.compile(r"^Invalid enum value .*`\$\.(language|isolation)`$")
_CHOICES = {"language": get_args(Language), "isolation": get_args(Isolation)}


def _explain(error: Exception) -> str:
    match error:
        case RecursionError():
            return "nested too deeply"
        case UnicodeDecodeError():
            return "a string is not UTF-8"
    text = str(error)  # it quotes what came, which may be megabytes
    if len(text) > _QUOTED:
        text = f"{text[:_QUOTED]}... {text[-_PLACE:]}"
    if "`$.name`" in text and "regex" in text:
        return "`name` must begin with a letter or a digit, and have up to 64 of these, '.', '_' or '-'"
    if (found := _NOT_ONE_OF.search(text)) is not None:
        return f"{text}; there is: {', '.join(map(repr, _CHOICES[found[1]]))}"
    return text


def _id_in_json(payload: bytes) -> Id | None:
    """Return the id of a JSON message that can't be decoded as a whole, say for half of a surrogate pair in a text."""
    found = _ID_FIRST.match(payload)
    try:
        return None if found is None else _id_decoder.decode(found[1])
    except _DECODE_ERRORS:
        return None


class _Session:
    def __init__(self, *, encoding: Encoding | None) -> None:
        self._frames = FrameDecoder(encoding=encoding)

    @property
    def encoding(self) -> Encoding:
        """What this connection speaks; MessagePack until the first byte says otherwise."""
        return self._frames.encoding or "msgpack"

    @property
    def mid_frame(self) -> bool:
        """Whether the other side owes us the rest of a frame."""
        return self._frames.buffered_bytes > 0

    @property
    def buffered_bytes(self) -> int:
        """How much of that frame is there."""
        return self._frames.buffered_bytes

    def clear(self) -> None:
        """Drop what is buffered."""
        self._frames.clear()

    def _encode(self, message: object) -> bytes:
        encode = _encode_json if self.encoding == "json" else _encode_msgpack
        return encode_frame(encode(message), self.encoding)

    def _json_in(self, raw: Raw) -> Raw:
        """JSON text of a JSON value that came in a message. Raises one of _DECODE_ERRORS."""
        if self.encoding == "json":
            return Raw(bytes(raw))
        return Raw(_text_decoder.decode(raw).encode())

    def _json_out(self, raw: Raw) -> Raw:
        return raw if self.encoding == "json" else Raw(_encode_msgpack(str(bytes(raw), "utf-8")))


class ServerSession(_Session):
    """The daemon's end: requests come in, replies go out."""

    def __init__(self, *, env_bytes: int = MAX_FRAME_BYTES) -> None:
        """`env_bytes`: of a larger `env` is not even looked whether it is a JSON object; it will be refused."""
        super().__init__(encoding=None)
        self._env_bytes = env_bytes

    def receive(self, data: bytes) -> list[Request | BadMessage | ProtocolError]:
        """Take bytes from the client; return what they complete, in order.

        A ProtocolError is the last: the stream can't be followed, for a frame over the cap or without a readable id.
        """
        events: list[Request | BadMessage | ProtocolError] = []
        try:
            events.extend(map(self._request, self._frames.feed(data)))
        except ProtocolError as error:
            error.__context__ = None  # its frames hold what was received, and would wait for the collector of cycles
            events.append(error.with_traceback(None))
        return events

    def _request(self, payload: bytes) -> Request | BadMessage:
        try:
            request: Request = _request_decoders[self.encoding].decode(payload)
            if isinstance(request, Run) and bytes(request.env):
                request = structs.replace(request, env=self._object(request.env))
        except _DECODE_ERRORS as error:
            message = _explain(error)
            try:
                envelope = _envelope_decoders[self.encoding].decode(payload)
            except _DECODE_ERRORS:
                id = _id_in_json(payload) if self.encoding == "json" else None
                if id is None:
                    raise ProtocolError(f"not a request, and no id to answer to: {message}") from None
                return BadMessage(id, message)
            return BadMessage(envelope.id, message)
        return request

    def _object(self, raw: Raw) -> Raw:
        text = self._json_in(raw)
        if len(bytes(text)) > self._env_bytes:
            return text
        try:
            _object_decoder.decode(text)
        except _DECODE_ERRORS as error:
            raise msgspec.ValidationError(f"`env` must be a JSON object: {_explain(error)}") from None
        return text

    def send(self, reply: Reply) -> bytes:
        """Return the bytes of one reply."""
        if isinstance(reply, Finished) and isinstance(reply.outcome, Ok):
            reply = structs.replace(reply, outcome=Ok(value=self._json_out(reply.outcome.value)))
        return self._encode(reply)


class ClientSession(_Session):
    """The client's end: requests go out, replies come in."""

    def __init__(self, *, encoding: Encoding = "msgpack") -> None:
        super().__init__(encoding=encoding)

    def send(self, request: Request) -> bytes:
        """Return the bytes of one request; a Run's `env` is a Raw of JSON text."""
        if isinstance(request, Run) and bytes(request.env):
            request = structs.replace(request, env=self._json_out(request.env))
        return self._encode(request)

    def receive(self, data: bytes) -> list[Reply]:
        """Take bytes from the daemon; return the replies they complete. Raises ProtocolError."""
        return [self._reply(payload) for payload in self._frames.feed(data)]

    def _reply(self, payload: bytes) -> Reply:
        try:
            reply: Reply = _reply_decoders[self.encoding].decode(payload)
            if isinstance(reply, Finished) and isinstance(reply.outcome, Ok):
                reply = structs.replace(reply, outcome=Ok(value=self._json_in(reply.outcome.value)))
        except _DECODE_ERRORS as error:
            raise ProtocolError(f"not a reply: {_explain(error)}") from None
        return reply
