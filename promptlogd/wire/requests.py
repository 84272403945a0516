"""Decodes the payload of one frame to a request or an error. Pure.

Decoding a large payload would block the event loop for too long. So `ServerSession` returns it undecoded, and the
decoder process calls `read_request` (promptlogd/decoder).
"""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
from msgspec import Raw, json, msgpack, structs

from promptlogd.wire.errors import BadMessage, ProtocolError, too_large
from promptlogd.wire.framing import MAX_FRAME_BYTES, Encoding
from promptlogd.wire.messages import Id, Isolation, LimitsAsked, Request, Run, Submit, Visibility
from sandbox.program import Language

INLINE_BYTES = 256 * 1024
"""The decoder process decodes a longer payload. The slowest payloads repeat one MessagePack field and take 7 ms for
each MiB: 1.8 ms for this size. A JSON `env` is parsed twice, 4 ms for each MiB."""


class TextBounds(msgspec.Struct, frozen=True, kw_only=True):
    """Maximum sizes of the texts of a request, in bytes of UTF-8."""

    source_bytes: int = MAX_FRAME_BYTES
    prompt_bytes: int = MAX_FRAME_BYTES
    env_bytes: int = MAX_FRAME_BYTES


class _Envelope(msgspec.Struct):
    """The id of an otherwise invalid message."""

    id: Id


class _Object(msgspec.Struct):
    """Any JSON object. Its members are skipped."""


_request_decoders: dict[Encoding, json.Decoder[Any] | msgpack.Decoder[Any]] = {
    "json": json.Decoder(Request),
    "msgpack": msgpack.Decoder(Request),
}
_envelope_decoders: dict[Encoding, json.Decoder[Any] | msgpack.Decoder[Any]] = {
    "json": json.Decoder(_Envelope),
    "msgpack": msgpack.Decoder(_Envelope),
}
_text_decoder = msgpack.Decoder(str)
_object_decoder = json.Decoder(_Object)
_id_decoder: json.Decoder[Id] = json.Decoder(Id)

_PLAIN = rb'"[^"\\]{0,128}"'
_ID_FIRST = re.compile(
    rb"\s*\{(?:\s*%s\s*:\s*%s\s*,){0,8}\s*\"id\"\s*:\s*(\d{1,16}|%s)\s*[,}]" % (_PLAIN, _PLAIN, _PLAIN)
)
"""Matches a message's id if only plain strings precede it, so that the id belongs to the message itself."""

# msgspec also raises RecursionError and UnicodeDecodeError, which are not MsgspecErrors.
DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Errors that the decoders of messages raise."""

_QUOTED, _PLACE = 250, 50
"""Characters of an explanation that are kept at its start, and at its end, which has the position in the message."""

_NOT_ONE_OF = re.compile(r"^Invalid enum value .*`\$\.(language|isolation|visibility)`$")
_CHOICES = {"language": get_args(Language), "isolation": get_args(Isolation), "visibility": get_args(Visibility)}
_EMPTY = re.compile(r"Expected `str` of length >= 1 - at `\$\.(.+)`")


def read_request(payload: bytes | memoryview, encoding: Encoding, bounds: TextBounds) -> Request | BadMessage:
    """Return the request, or the error to reply with. Raises ProtocolError if there is no readable id.

    An `env` that is too large is not checked to be a JSON object, because it will be refused.
    """
    try:
        request: Request = _request_decoders[encoding].decode(payload)
        if isinstance(request, Run) and bytes(request.env):
            request = structs.replace(request, env=_object(request.env, encoding, bounds.env_bytes))
    except DECODE_ERRORS as error:
        message = explain(error)
        try:
            envelope = _envelope_decoders[encoding].decode(payload)
        except DECODE_ERRORS:
            id = _id_in_json(payload) if encoding == "json" else None
            if id is None:
                raise ProtocolError(f"not a request, and its id is not readable: {message}") from None
            return BadMessage(id, message)
        return BadMessage(envelope.id, message)
    return request


def oversize(request: Request, bounds: TextBounds) -> BadMessage | None:
    """Return the error for a text of a request that is too long, if there is one."""
    match request:
        case Submit(id=id, source=source):
            texts = {"source": (len(source.encode()), bounds.source_bytes)}
        case Run(id=id, source=source, prompt=prompt, env=env):
            texts = {
                "source": (len((source or "").encode()), bounds.source_bytes),
                "prompt": (len(prompt.encode()), bounds.prompt_bytes),
                "env": (len(bytes(env)), bounds.env_bytes),
            }
        case _:
            return None
    for what, (size, most) in texts.items():
        if size > most:
            message, detail = too_large(what, size, most)
            return BadMessage(id, message, code="too_large", detail=detail)
    return None


def json_text(raw: Raw, encoding: Encoding) -> Raw:
    """Return the JSON text of a JSON value in a message. Raises one of DECODE_ERRORS."""
    if encoding == "json":
        return Raw(bytes(raw))
    return Raw(_text_decoder.decode(raw).encode())


def _object(raw: Raw, encoding: Encoding, most: int) -> Raw:
    text = json_text(raw, encoding)
    if len(bytes(text)) > most:
        return text
    try:
        str(bytes(text), "utf-8")
        _object_decoder.decode(text)
    except DECODE_ERRORS as error:
        raise msgspec.ValidationError(f"`env` must be a JSON object: {explain(error)}") from None
    return text


def explain(error: Exception) -> str:
    """Return a message for the client for one of DECODE_ERRORS."""
    match error:
        case RecursionError():
            return "nested too deeply"
        case UnicodeDecodeError():
            return "a string is not UTF-8"
    text = str(error)  # it may quote megabytes of input
    if len(text) > _QUOTED:
        text = f"{text[:_QUOTED]}... {text[-_PLACE:]}"
    if "`$.name`" in text and "regex" in text:
        return "`name` must start with a letter or a digit, and have at most 64 letters, digits, '.', '_' or '-'"
    if text.startswith("Object contains unknown field") and text.endswith("`$.limits`"):
        return f"{text}; there is: {', '.join(LimitsAsked.__struct_fields__)}"
    if (found := _EMPTY.fullmatch(text)) is not None:
        return f"`{found[1]}` is empty"
    if (found := _NOT_ONE_OF.search(text)) is not None:
        return f"{text}; valid values: {', '.join(map(repr, _CHOICES[found[1]]))}"
    return text


def _id_in_json(payload: bytes | memoryview) -> Id | None:
    """Return the id of a JSON message that cannot be decoded, for example because of a lone surrogate in a string."""
    found = _ID_FIRST.match(payload)
    try:
        return None if found is None else _id_decoder.decode(found[1])
    except DECODE_ERRORS:
        return None
