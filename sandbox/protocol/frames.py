"""Frames between the daemon and a jailed process. Only this module, on the daemon's side, uses letters as codes.

A frame is a kind (one byte), the size of its payload (4 bytes, big-endian), and the payload. If programs of an engine
can write to the descriptor, the run's token precedes each frame. If a payload has several fields, each is preceded by
its size in 4 bytes.

    to the process      j job       the engine's own form
                        a answer    call:4 ok:1 json
                        g wake      nothing
    from the process    l log       level and mapping in one character ("0" + level + 5 * mapping), then the text
                        c call      number:4, then the fields name and arguments
                        w wait      answers_seen:4 wake_ms:4 (ffffffff: no timer)
                        q maybe     as s; or empty, which withdraws an earlier one
                        v value     JSON                    o too large     decimal digits
                        b no JSON   message                 x thrown        the fields name, message, stack
                        m no memory nothing                 s refused       form:1, then the fields message and stack
                        f checked   form:1, then the code, if any

More than 300 lines, because all kinds of frames are encoded and decoded here.

A form is B (body) or M (module). tests/protocol/golden.jsonl has byte sequences that every implementation must pass.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import msgspec

from sandbox.protocol.events import (
    LAST,
    Call,
    Checked,
    Log,
    Maybe,
    Message,
    NoJson,
    OutOfMemory,
    Refused,
    Thrown,
    TooLarge,
    Value,
    Wait,
)

HEADER_BYTES = 5
_HEADER = struct.Struct(">BI")
LEVELS = 5

_TEXT_BYTES = 256 * 1024
"""Maximum size of a frame with an error or a message. The engines' scripts cut each text far below it."""

_LARGE_BYTES = _TEXT_BYTES
"""A longer payload is a view of the received bytes, because copying 4 MiB to new memory takes 2 ms."""

_UNIT_BYTES = 3
"""Scripts count UTF-16 code units. In UTF-8 a unit takes at most three bytes."""

LINE_BYTES = 16
"""Bytes that each console line counts in addition to its text, which bounds the number of empty lines."""

_NO_TIMER = 0xFFFFFFFF

SENT_PER_BYTE = 2
"""The engines' scripts send up to this many times the limit of console lines: frames of stacks get shorter when they
are put in terms of the program. With the last line it is three times the limit at the most."""

LINE_TEXT_BYTES = 96 * 1024
"""Maximum size of one console line: more than the default limit of all lines of a run. A line of control characters
takes 0.2 ms to collect, and 1.4 ms to encode as JSON if it is streamed."""

MESSAGES_AT_ONCE = 64
"""Messages that are decoded at once. They take 0.3 ms, and 0.7 ms if each becomes a reply. A frame without a text has
only five bytes."""

TEXT_AT_ONCE_BYTES = 32 * 1024
"""After this much text in console lines, the rest waits for the next turn. With the line that crosses it, this is at
most 128 KiB, which takes up to 0.7 ms to collect, and 1.9 ms to encode as JSON if it is streamed."""

_SURPLUS_BYTES = 64 * 1024
"""A process that writes more than this after its last message is killed."""

_PROVISIONAL = 16
"""Maximum number of provisional outcomes of one check. The engines' scripts send at most three."""


class Task(Enum):
    """The task of a job."""

    __hash__ = object.__hash__  # that of Enum is in Python, and the decoder looks up the task of each run

    RUN = "run"
    """Run a checked program."""
    CHECK = "check"
    """Check whether a source is a program, without executing it."""
    CHECK_AND_RUN = "check and run"


_KINDS = {
    Task.RUN: frozenset("lvobxsmcw"),
    Task.CHECK: frozenset("fsxmq"),
    Task.CHECK_AND_RUN: frozenset("lvobxsmcwq"),
}


class Malformed(Exception):
    """The process sent invalid bytes, or more than its cap. A program controls it, or it has failed."""


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """Maximum sizes of what a process may send in one run, in bytes."""

    task: Task
    result_bytes: int
    log_bytes: int
    artifact_bytes: int = 0
    """Of the code of a checked program."""
    call_bytes: int = 0
    """Of one call of a host function."""
    mappings: int = 1
    """Number of line mappings of stacks in console lines."""
    tells_memory: bool = True
    """Whether the engine itself reports that the kernel refused memory."""


class Decoder:
    """Collects the bytes of one process, and returns the messages that they complete."""

    def __init__(self, caps: Caps, *, token: bytes = b"") -> None:
        """`token`: precedes each frame. The program does not know it."""
        self._caps = caps
        self._token = token
        self._buffer = bytearray()
        self._held: deque[bytes] = deque()
        """Bytes that follow those in the buffer."""
        self._lines_left = caps.log_bytes // LINE_BYTES + 2  # two more report that lines were cut
        self._log_bytes_left = _UNIT_BYTES * caps.log_bytes + LINE_BYTES * self._lines_left
        self._provisional_left = _PROVISIONAL
        self._rest_bytes = 0
        """Remaining bytes of a value that exceeds its cap."""
        self.ended = False
        """Whether the last message was decoded."""
        self.surplus = False
        """Whether the process sent anything after its last message."""
        self.backlog = False
        """Whether the fed bytes may contain more messages. Call `feed` with no bytes to get them."""

    @property
    def flood(self) -> bool:
        """Whether the process has sent too much after its last message."""
        return self._rest_bytes < -_SURPLUS_BYTES

    def hold(self, parts: Sequence[bytes]) -> None:
        """Take the next bytes. Later calls of `feed` decode one part each: see `backlog`."""
        if self.ended:
            for part in parts:
                self.feed(part)
        else:
            self._held.extend(parts)
            self.backlog = True

    def feed(self, data: bytes) -> list[Message]:
        """Take the next bytes, and return at most MESSAGES_AT_ONCE messages and about TEXT_AT_ONCE_BYTES of console
        text.

        Bytes after the last message are dropped. Raises Malformed.
        """
        if self.ended:
            self._rest_bytes -= len(data)
            self.surplus = self.surplus or self._rest_bytes < 0
            return []
        if not data and self._held:
            data = self._held.popleft()
        before = len(self._token)
        buffer: bytes | bytearray = data  # most outputs arrive as a whole, and need no copy
        if self._buffer or before:  # with a token (Deno), `partial` must be right even after Malformed
            self._buffer += data
            buffer = self._buffer
        messages: list[Message] = []
        start, header, text_bytes = 0, before + HEADER_BYTES, 0
        full = False
        while len(buffer) - start >= header and not full:
            if before and buffer[start : start + before] != self._token:
                raise Malformed("something that is not a frame")
            code, size = _HEADER.unpack_from(buffer, start + before)
            kind, end = chr(code), start + header + size
            if kind == "v" and size > self._caps.result_bytes and self._caps.task is not Task.CHECK:
                # Scripts count UTF-16 code units, but the limit is in bytes. The rest is not needed.
                message: Message = TooLarge(size=size)
            elif size > self._cap(kind):
                raise Malformed(f"a frame of kind {kind!r} that announces {size} bytes")
            elif len(buffer) < end:
                break
            elif size > _LARGE_BYTES and kind != "l":
                message = _DECODERS[kind](memoryview(buffer)[start + header : end])
                buffer = self._buffer = bytearray(buffer[end:])
                end = 0
            else:
                read = min(size, 1 + LINE_TEXT_BYTES + 1) if kind == "l" else size
                message = _DECODERS[kind](_copy(buffer, start + header, start + header + read))
            messages.append(message)
            start = end
            if isinstance(message, LAST):
                self.ended = True
                # At most what the engine's script would send, regardless of the size in the frame.
                whole = min(size, _UNIT_BYTES * self._caps.result_bytes) if isinstance(message, TooLarge) else size
                self._rest_bytes = start - size + whole - len(buffer) - sum(map(len, self._held))
                self.surplus = self._rest_bytes < 0
                self._held.clear()
                break
            if isinstance(message, Log):
                self._charge(message, size - 1)
                text_bytes += len(message.text)
            elif isinstance(message, Maybe):
                self._provisional_left -= 1
                if self._provisional_left < 0:
                    raise Malformed("more provisional outcomes than allowed")
            full = len(messages) == MESSAGES_AT_ONCE or text_bytes >= TEXT_AT_ONCE_BYTES
        if buffer is self._buffer:
            del self._buffer[:start]
        elif start < len(buffer):
            self._buffer += buffer[start:]
        self.backlog = not self.ended and (full or bool(self._held))
        return messages

    @property
    def partial(self) -> bool:
        """Whether the last bytes ended within a message."""
        return bool(self._buffer or self._held) and not self.ended

    def _charge(self, log: Log, text_bytes: int) -> None:
        """Raise Malformed for an invalid line, or for more lines than the engine's script would send."""
        if log.mapping >= self._caps.mappings:
            raise Malformed("a log line without a level")
        self._lines_left -= 1
        self._log_bytes_left -= text_bytes
        if self._lines_left < 0 or self._log_bytes_left < 0:
            raise Malformed("more console lines than allowed")

    def _cap(self, kind: str) -> int:
        caps = self._caps
        if kind not in _KINDS[caps.task] or (kind == "m" and not caps.tells_memory):
            raise Malformed(f"a frame of no known kind, {kind!r}")
        match kind:
            case "v":
                return caps.result_bytes
            case "l":
                return _UNIT_BYTES * caps.log_bytes + 8
            case "f":
                return 1 + caps.artifact_bytes
            case "c":
                return caps.call_bytes
            case _:
                return _TEXT_BYTES


def _copy(buffer: bytes | bytearray, start: int, end: int) -> bytes:
    if isinstance(buffer, bytes):
        return buffer[start:end]
    with memoryview(buffer) as view:  # slicing the buffer itself would copy twice
        return bytes(view[start:end])


def _fields(payload: bytes, start: int, count: int) -> list[bytes]:
    fields: list[bytes] = []
    for _ in range(count):
        end = start + 4 + int.from_bytes(payload[start : start + 4], "big")
        if len(payload) < start + 4 or end > len(payload):
            raise Malformed("a frame whose fields do not fill it")
        fields.append(payload[start + 4 : end])
        start = end
    if start != len(payload):
        raise Malformed("a frame whose fields do not fill it")
    return fields


def _module(payload: bytes | memoryview) -> bool:
    if payload[:1] not in (b"B", b"M"):
        raise Malformed("a form that does not exist")
    return payload[:1] == b"M"


def _log(payload: bytes) -> Log:
    mapping, level = divmod(payload[0] - ord("0"), LEVELS) if payload else (-1, 0)
    if mapping < 0:
        raise Malformed("a log line without a level")
    return Log(level=level, mapping=mapping, text=payload[1:])


def _call(payload: bytes) -> Call:
    name, arguments = _fields(payload, 4, 2)
    return Call(number=int.from_bytes(payload[:4], "big"), name=name, arguments=arguments)


def _wait(payload: bytes) -> Wait:
    if len(payload) != 8:
        raise Malformed("a wait with a wrong size")
    wake_ms = int.from_bytes(payload[4:], "big")
    return Wait(answers_seen=int.from_bytes(payload[:4], "big"), wake_ms=None if wake_ms == _NO_TIMER else wake_ms)


def _refused(payload: bytes) -> Refused:
    message, stack = _fields(payload, 1, 2)
    return Refused(module=_module(payload), message=message, stack=stack)


def _thrown(payload: bytes) -> Thrown:
    name, message, stack = _fields(payload, 0, 3)
    return Thrown(name=name, message=message, stack=stack)


def _too_large(payload: bytes) -> TooLarge:
    return TooLarge(size=int(payload) if payload.isdigit() and len(payload) < 16 else 0)


def _out_of_memory(payload: bytes) -> OutOfMemory:
    if payload:
        raise Malformed("a frame that should be empty")
    return OutOfMemory()


def _checked(payload: bytes | memoryview) -> Checked:
    return Checked(module=_module(payload), code=payload[1:] if len(payload) > 1 else None)


_DECODERS: dict[str, Callable[[Any], Message]] = {
    "l": _log,
    "c": _call,
    "w": _wait,
    "q": lambda payload: Maybe(last=_refused(payload) if payload else None),
    "v": lambda payload: Value(json=payload),
    "o": _too_large,
    "b": lambda payload: NoJson(message=payload),
    "x": _thrown,
    "m": _out_of_memory,
    "s": _refused,
    "f": _checked,
}


def job_frame(*parts: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
    """Return the frame of a job, in parts. `parts` are its payload, in the engine's own format."""
    return b"j" + sum(map(len, parts)).to_bytes(4, "big"), *parts


def answer_frame(number: int, *, ok: bool, json: bytes) -> bytes:
    """Return the frame that answers a call: with a value, or, if not `ok`, with an error."""
    payload = number.to_bytes(4, "big") + (b"1" if ok else b"0") + json
    return b"a" + len(payload).to_bytes(4, "big") + payload


WAKE_FRAME = b"g" + bytes(4)
"""The frame that wakes a process for its timer."""
