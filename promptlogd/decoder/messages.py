"""Messages between the daemon and its decoder. Pure.

A question is a header and a payload. The payload is that of a client's frame, or a result from a jailed process. An
answer is a kind, a size, and a request or one of the records below. A request has three parts: the sizes of its long
texts, the request in MessagePack without them, and the texts. So the daemon can decode a source in slices, and does not
decode a prompt.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec
from msgspec import structs

from promptlogd.wire import ClientSession, Encoding, TextBounds
from promptlogd.wire.messages import NO_ENV, ErrorCode, Id, Request, Run, Submit
from sandbox.outcome import BadResult, Crashed

Kind = Literal["json", "msgpack", "value"]

_QUESTION = struct.Struct(">BIIII")
_KINDS: tuple[Kind, ...] = ("json", "msgpack", "value")
QUESTION_BYTES = _QUESTION.size

_ANSWER = struct.Struct(">cI")
ANSWER_BYTES = _ANSWER.size
REQUEST, RECORD = b"r", b"a"

_TEXTS = struct.Struct(">III")
TEXTS_BYTES = _TEXTS.size
_APART_BYTES = 64 * 1024
"""A longer source or prompt (in characters) or env follows the request instead of being part of it."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An invalid request with a readable id."""

    id: Id
    code: ErrorCode
    message: str
    detail: dict[str, int] | None


class Unreadable(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A frame without a readable id."""

    code: ErrorCode
    message: str


class Right(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The result is one JSON value."""


class Wrong(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The result is not one JSON value."""

    outcome: BadResult | Crashed


Record = Refused | Unreadable | Right | Wrong

encode_record = msgspec.msgpack.Encoder().encode
decode_record: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def question(kind: Kind, size: int, bounds: TextBounds) -> bytes:
    """Return the header of a question."""
    return _QUESTION.pack(_KINDS.index(kind), size, bounds.source_bytes, bounds.prompt_bytes, bounds.env_bytes)


def read_question(header: bytes) -> tuple[Kind, int, TextBounds]:
    """Return the fields of a header: the payload's kind, its size in bytes, and the bounds of a request's texts."""
    kind, size, source_bytes, prompt_bytes, env_bytes = _QUESTION.unpack(header)
    return _KINDS[kind], size, TextBounds(source_bytes=source_bytes, prompt_bytes=prompt_bytes, env_bytes=env_bytes)


def answer(kind: bytes, payload: bytes) -> bytes:
    """Return an answer."""
    return _ANSWER.pack(kind, len(payload)) + payload


def answer_request(request: Request) -> bytes:
    """Return the answer that is a request."""
    source, prompt, env = b"", b"", b""
    if isinstance(request, Run | Submit) and len(request.source or "") > _APART_BYTES:
        source = (request.source or "").encode()
        request = structs.replace(request, source="")
    if isinstance(request, Run):
        if len(request.prompt) > _APART_BYTES:
            prompt = request.prompt.encode()
            request = structs.replace(request, prompt="")
        if len(memoryview(request.env)) > _APART_BYTES:
            env = bytes(request.env)
            request = structs.replace(request, env=NO_ENV)
    sizes = _TEXTS.pack(len(source), len(prompt), len(env))
    return answer(REQUEST, b"".join((sizes, ClientSession().send(request), source, prompt, env)))


def read_texts(header: bytes) -> tuple[int, int, int]:
    """Return the sizes of the source, the prompt and the env after the request, in bytes; 0 for one in the request."""
    source_bytes, prompt_bytes, env_bytes = _TEXTS.unpack(header)
    return source_bytes, prompt_bytes, env_bytes


def read_answer(header: bytes) -> tuple[bytes, int]:
    """Return the kind of an answer, and the size of its payload in bytes."""
    kind, size = _ANSWER.unpack(header)
    return kind, size


def encoding_of(kind: Kind) -> Encoding:
    """Return the encoding of a frame of this kind."""
    assert kind != "value"
    return kind
